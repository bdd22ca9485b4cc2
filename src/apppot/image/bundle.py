"""Make a bundle: one file with an image, AppPot itself and the kit, that runs by itself.

a shell script of at most 4096 bytes, which finds a Python
bundleloader.py, and the index in JSON
the layers, each at a multiple of 4096 bytes: they are used in place, as disks
a ZIP archive with AppPot's package and the kit: unpacked once per host
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from typing import IO, TYPE_CHECKING, Any

import apppot
from apppot import kit as kits
from apppot.errors import ImageError
from apppot.image import aside, changes, saving, store, writer
from apppot.image.bundleloader import ALIGNMENT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from apppot.image.changefile import Base
    from apppot.image.model import Image, Layer

_HEADER = """#!/bin/sh
# {name}: an appliance in one file, made by AppPot {version}.
# Run it: FILE COMMAND [ARGUMENT...]. More: FILE --apppot-help
names="python3 python3.14 python3.13 python3.12 python3.11"
for python in ${{BUNDLE_PYTHONS:-$names}}; do
    if command -v "$python" >/dev/null 2>&1; then
        exec "$python" -I -S -c 'import os, sys
file = open(sys.argv[1], "rb")
file.seek({offset})
text = file.read({length})
def fail(why):
    sys.stderr.write("apppot: %s\\n" % why)
    sys.exit(125)
if len(text) != {length}:
    fail("the bundle %s is damaged: it is cut off. Get it again." % sys.argv[1])
if sys.version_info < (3, 11):
    if "BUNDLE_PYTHONS" not in os.environ:
        os.environ["BUNDLE_PYTHONS"] = "python3.14 python3.13 python3.12 python3.11"
        os.execv("/bin/sh", ["sh"] + sys.argv[1:])
    fail("Python 3.11 or newer is needed; this is %s" % sys.version.split()[0])
exec(compile(text, "bundle", "exec"))
open_bundle(sys.argv[1], {index}, {size}, sys.argv[2:])' "$0" "$@"
    fi
done
echo "apppot: Python 3.11 or newer is needed, and there is none in PATH" >&2
exit 125
"""
_LOADER = "bundleloader.py"
# `python3 FILE` runs it too, where the file may not be executed: Python looks into the archive.
_MAIN = """import os, sys
os.environ.setdefault("BUNDLE_PYTHONS", sys.executable or "python3")
os.execv("/bin/sh", ["sh", *sys.argv])
"""
_OLDEST = (1980, 1, 1, 0, 0, 0)  # that ZIP can tell


def make(name: str, path: str, *, kit: bool = False, without_base: bool = False) -> int:
    """Write a bundle of an image; return its size. Raises AppPotError."""
    image = store.resolve(name)
    base, left = _base(name, image, without_base=without_base)
    changes.check_target(path)
    code = _code(kits.find() if kit else None)
    layers, at = [], 0
    for number, layer in enumerate(image.layers):
        entry: dict[str, Any] = {
            "digest": layer.digest,
            "size": layer.size,
            "content": layer.content,
            "at": None if number < left else at,
        }
        layers.append(entry)
        if number >= left:
            at = _aligned(at + layer.size)
    index = {
        "name": image.name,
        "digest": image.digest,
        "config": saving.configuration(image),
        "base": {"name": base.name, "digest": base.digest, "chain": base.chain} if base else None,
        "layers": layers,
        "code": {"at": at, "size": len(code), "sha256": hashlib.sha256(code).hexdigest()},
        "kit": kit,
        "tool": f"apppot {apppot.__version__}",
    }
    head, data = _head(image.name, index, at + len(code))
    with aside.explained(path), aside.whole(path, mode=0o777) as file:
        file.write(head)
        for entry, layer in zip(layers, image.layers, strict=True):
            if entry["at"] is not None:
                file.seek(data + entry["at"])
                _copy(layer, file)
        file.seek(data + at)
        file.write(code)
    return data + at + len(code)


def _base(name: str, image: Image, *, without_base: bool) -> tuple[Base | None, int]:
    """Return the base to be left out and the number of its layers."""
    if not without_base:
        return None, 0
    try:
        base = changes.of_image(name).base
    except ImageError as error:
        raise ImageError(
            f"'{image.name}' cannot be bundled without its base: {error.message}",
            hint="leave --without-base out",
        ) from error
    return base, base.layers


def _head(name: str, index: dict[str, Any], rest: int) -> tuple[bytes, int]:
    """Return what is before the layers, and where they begin."""
    with open(os.path.join(os.path.dirname(__file__), _LOADER), "rb") as file:
        loader = file.read()
    place = ALIGNMENT + len(loader)
    total = 0
    while True:  # the total's digits are a part of the index
        text = json.dumps({**index, "total": total}, sort_keys=True).encode()
        data = _aligned(place + len(text))
        if total == data + rest:
            break
        total = data + rest
    plain = "".join(c for c in name if c.isprintable())
    script = _HEADER.format(
        name=plain,
        version=apppot.__version__,
        offset=ALIGNMENT,
        length=len(loader),
        index=place,
        size=len(text),
    ).encode()
    if len(script) > ALIGNMENT:
        raise ImageError(f"the name '{name}' is too long for a bundle")
    head = script.ljust(ALIGNMENT, b"\n") + loader + text
    return head.ljust(data, b"\0"), data


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def _copy(layer: Layer, file: IO[bytes]) -> None:
    """Copy a layer, and check its digest on the way; raises ImageError."""
    state = hashlib.sha256()
    with open(layer.path, "rb") as source:
        source.seek(layer.offset)
        left = layer.size
        while left > 0 and (piece := source.read(min(left, writer.PIECE))):
            state.update(piece)
            file.write(piece)
            left -= len(piece)
    if f"sha256:{state.hexdigest()}" != layer.digest:
        raise ImageError(
            f"damaged image: {layer.path} does not match its digest", hint="see 'apppot fsck'"
        )


def _code(kit: kits.Kit | None) -> bytes:
    """Return an archive of AppPot's package, and of the kit."""
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr(zipfile.ZipInfo("__main__.py", _OLDEST), _MAIN)
        for name, path in _files(kit):
            member = zipfile.ZipInfo(name, _OLDEST)
            member.compress_type = zipfile.ZIP_DEFLATED
            member.external_attr = (0o755 if os.access(path, os.X_OK) else 0o644) << 16
            with open(path, "rb") as file:
                archive.writestr(member, file.read())
    return made.getvalue()


def _files(kit: kits.Kit | None) -> Iterator[tuple[str, str]]:
    """Yield names in the archive and files, sorted."""
    package = os.path.dirname(os.path.abspath(apppot.__file__))
    for folder, folders, names in os.walk(package):
        folders[:] = sorted(name for name in folders if name not in ("__pycache__", "_recipes"))
        for name in sorted(names):
            if name.endswith((".py", ".typed")):
                path = os.path.join(folder, name)
                yield os.path.join("lib/apppot", os.path.relpath(path, package)), path
    if kit:
        for name in sorted((kits.MANIFEST, *kit.manifest.files)):
            yield f"kit/{name}", os.path.join(kit.path, name)
