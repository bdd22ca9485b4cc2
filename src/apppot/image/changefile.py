"""Read a changes file's trailer: what the changes are, and which base they belong to.

docs/reference/changes-file.md describes the format. This module is on the way to `apppot run
--changes`: of a file of any size it reads the end, and the one block that tells an EROFS file.
"""

from __future__ import annotations

import json
import os
from struct import Struct

from apppot.errors import ImageError
from apppot.image import model
from apppot.image.model import Image, Layer
from apppot.image.reference import is_digest
from apppot.lean import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

MAGIC = b"AppPot changes\r\n"  # a transfer as text would damage it
VERSION = 1
FOOTER = Struct("<16sIIQ32s")  # magic, version, zeros, the trailer's length, its SHA-256
BIGGEST_TRAILER = 4 << 20
BLOCK = 4096
_EROFS = b"\xe2\xe1\xf5\xe0"
_EROFS_AT = 1024
_MOST_TEXT = 4096
_SEND_AGAIN = "get the file again from where it is from"


@dataclass(frozen=True)
class Base:
    """The stack of layers that changes were made on: `chain` is what must be the same."""

    name: str
    digest: str
    chain: str
    layers: int


@dataclass(frozen=True)
class ChangesFile:
    """A changes file. `config` is the whole OCI configuration of the changed image."""

    path: str
    layer: Layer
    base: Base
    config: dict[str, Any]
    created: str
    tool: str


def read(path: str) -> ChangesFile:
    """Return what a changes file says of itself; raises ImageError."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise ImageError(f"cannot read the changes file {path}: {error.strerror}") from error
    try:
        return _read(descriptor, path)
    except OSError as error:
        raise ImageError(f"cannot read the changes file {path}: {error.strerror}") from error
    finally:
        os.close(descriptor)


def is_changes(path: str) -> bool:
    """Tell whether a file ends as a changes file does."""
    try:
        with open(path, "rb") as file:
            file.seek(-FOOTER.size, os.SEEK_END)
            return file.read(len(MAGIC)) == MAGIC
    except (OSError, ValueError):
        return False


def _read(descriptor: int, path: str) -> ChangesFile:
    size = os.lseek(descriptor, 0, os.SEEK_END)
    end = os.pread(descriptor, FOOTER.size, max(0, size - FOOTER.size))
    if len(end) < FOOTER.size or end[: len(MAGIC)] != MAGIC:
        cut = os.pread(descriptor, 4, _EROFS_AT) == _EROFS
        raise ImageError(
            f"{path} is not a whole changes file: its end is missing"
            if cut
            else f"{path} is not a changes file",
            hint=_SEND_AGAIN if cut else "changes files are made by 'apppot changes save FILE'",
        )
    _, version, zeros, length, expected = FOOTER.unpack(end)
    if version != VERSION or zeros:
        raise ImageError(
            f"{path} is a changes file of version {version}, and this AppPot reads version"
            f" {VERSION}",
            hint="use a newer AppPot",
        )
    at = size - FOOTER.size - length
    if length > BIGGEST_TRAILER or at < BLOCK:
        raise _damaged(path, f"its trailer would have {length} bytes")
    data = os.pread(descriptor, length, at)
    if model.digest(data).removeprefix("sha256:") != expected.hex():
        raise _damaged(path, "its trailer does not match its digest")
    try:
        found = _parse(json.loads(data), path)
    except (ValueError, RecursionError) as error:
        raise _damaged(path, f"its trailer is not JSON ({error})") from error
    if found.layer.size != at:
        raise _damaged(path, f"its layer has {at} bytes, not {found.layer.size}")
    if os.pread(descriptor, 4, _EROFS_AT) != _EROFS:
        raise _damaged(path, "its layer is not an EROFS file system")
    return found


def _parse(document: Any, path: str) -> ChangesFile:
    """Return what a trailer says; raises ImageError."""
    document = document if isinstance(document, dict) else {}
    layer, base, config = (document.get(key) for key in ("layer", "base", "config"))
    if not (isinstance(layer, dict) and isinstance(base, dict) and isinstance(config, dict)):
        raise _damaged(path, "its trailer lacks the layer, the base or the configuration")
    digests = layer.get("digest"), layer.get("content"), base.get("digest"), base.get("chain")
    if not all(isinstance(digest, str) and is_digest(digest) for digest in digests):
        raise _damaged(path, "its trailer has a digest that is none")
    size, count = layer.get("size"), base.get("layers")
    if type(size) is not int or type(count) is not int or size < BLOCK or size % BLOCK or count < 1:
        raise _damaged(path, "its trailer has a number that makes no sense")
    name, created, tool = base.get("name"), document.get("created"), document.get("tool")
    if not all(_is_plain(text) for text in (name, created, tool)):
        raise _damaged(path, "its trailer has a text that is none")
    model.config(config, f"the configuration in {path}")
    return ChangesFile(
        path,
        Layer(layer["digest"], size, path, content=layer["content"]),
        Base(str(name), base["digest"], base["chain"], count),
        config,
        str(created),
        str(tool),
    )


def _is_plain(text: object) -> bool:
    """Tell whether a text can be shown on a terminal."""
    return isinstance(text, str) and len(text) <= _MOST_TEXT and (text.isprintable() or not text)


def _damaged(path: str, what: str) -> ImageError:
    return ImageError(f"the changes file {path} is damaged: {what}", hint=_SEND_AGAIN)


def stacked(image: Image, paths: Sequence[str]) -> Image:
    """Return an image with changes files on top, in their order; raises ImageError.

    Each one's base must be what is below it.
    """
    layers, config, name = image.layers, image.config, image.name
    for path in paths:
        changes = read(path)
        chain = model.chain([layer.content or layer.digest for layer in layers])
        if chain != changes.base.chain:
            raise other_base(changes, name, chain)
        layers = (*layers, changes.layer)
        config = model.config(changes.config, f"the configuration in {path}")
        name = f"{name} + {os.path.basename(path)}"
    return Image(image.name, image.digest, layers, config)


def other_base(changes: ChangesFile, name: str, chain: str) -> ImageError:
    """Return the error for changes on something else than their base."""
    base = changes.base
    return ImageError(
        f"the changes in {changes.path} belong to '{base.name}' (layers {base.chain[:19]}), and"
        f" not to '{name}' (layers {chain[:19]})",
        hint=f"run them on '{base.name}', or move them with 'apppot rebase'",
    )
