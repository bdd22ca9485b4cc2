"""Make changes files, and turn them into images: one compressed layer and the name of its base."""

from __future__ import annotations

import fnmatch
import json
import os
import re
import tempfile
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from apppot import __version__, paths, worker
from apppot.errors import ImageError, UsageError
from apppot.image import (
    aside,
    changefile,
    committing,
    elsewhere,
    erofs,
    exclude,
    merging,
    model,
    pressing,
    reference,
    saving,
    store,
    writer,
)
from apppot.image.changefile import FOOTER, MAGIC, VERSION, Base
from apppot.image.model import Descriptor
from apppot.machine import rundir

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from apppot.image.model import Image, Layer
    from apppot.image.pressing import Pressing


@dataclass(frozen=True)
class Subject:
    """Changes and what they were made on: layers of an image, the base's first."""

    name: str
    base: Base
    below: tuple[Layer, ...]
    own: tuple[Layer, ...]
    config: dict[str, Any]


@dataclass(frozen=True)
class Made:
    """A changes file that has been written; sizes in bytes, `contents` is what it unpacks to."""

    path: str
    size: int
    entries: int


def base_of(image: Image) -> Base:
    """Return an image as the base of changes."""
    chain = model.chain(saving.contents(image.layers))
    return Base(image.name, image.digest, chain, len(image.layers))


def of_image(name: str, base: str = "") -> Subject:
    """Return the changes in an image: what it has above its base, or above the image `base`.

    Raises UsageError or ImageError.
    """
    image = store.resolve(name)
    if base:
        other = store.resolve(base)
        found = base_of(other)
    else:
        found = recorded_base(image)
    contents = saving.contents(image.layers)
    count = next(
        (n for n in range(1, len(contents) + 1) if model.chain(contents[:n]) == found.chain), 0
    )
    if not count:
        raise ImageError(
            f"the image '{image.name}' is not made of '{found.name}' (layers {found.chain[:19]})"
            " and changes",
            hint="name the image that it was made from with --base",
        )
    if count == len(contents):
        raise ImageError(f"the image '{image.name}' has no changes to '{found.name}'")
    return Subject(
        image.name,
        Base(found.name, found.digest, found.chain, count),
        image.layers[:count],
        image.layers[count:],
        saving.configuration(image),
    )


def recorded_base(image: Image) -> Base:
    """Return what an image's manifest says of its base; raises ImageError."""
    where, entry = store.find(image.name)
    notes = where.manifest(entry).get("annotations")
    found = notes if isinstance(notes, dict) else {}
    chain, digest = found.get("vnd.apppot.base.chain"), found.get("vnd.apppot.base.digest")
    if not (isinstance(chain, str) and isinstance(digest, str) and reference.is_digest(digest)):
        raise ImageError(
            f"the image '{image.name}' does not say what its base is",
            hint="name the image that it was made from with --base",
        )
    return Base(str(found.get(model.BASE_NAME) or ""), digest, chain, 0)


def save_image(
    path: str, subject: Subject, patterns: Sequence[str], how: Pressing | None = None
) -> Made:
    """Write the changes of an image to a file; raises AppPotError."""
    with archived(subject) as archive:
        return write(path, archive, subject.base, subject.config, patterns, how)


def save_machine(
    path: str, ident: str, patterns: Sequence[str], how: Pressing | None = None
) -> Made:
    """Write what a running machine has changed so far to a file; raises AppPotError."""
    machine = rundir.select(ident)
    image = committing.image_of(machine.facts)
    check_target(path)
    with temporary() as archive:
        excludes = tuple(map(os.fsencode, patterns))
        committing.archive_changes(machine.path, excludes, archive.fileno())
        return write(path, archive, base_of(image), saving.configuration(image), (), how)


@contextmanager
def archived(subject: Subject) -> Iterator[IO[bytes]]:
    """Give an archive of all changes of a subject, in OCI's form; raises AppPotError."""
    with temporary() as whole:
        parts = []
        first, stack = len(subject.below), (*subject.below, *subject.own)
        with closing(worker.Archivist(stack)) as machine:
            for number in range(first, len(stack)):
                begin = whole.seek(0, os.SEEK_END)
                machine.layer(number, whole.fileno())
                parts.append((begin, whole.seek(0, os.SEEK_END)))
        if len(parts) == 1:
            whole.seek(0)
            yield whole
            return
        with temporary() as merged:
            merging.merge(whole, parts, merged)
            merged.seek(0)
            yield merged


@contextmanager
def temporary() -> Iterator[IO[bytes]]:
    """Give a file without a name in the scratch folder; raises ImageError."""
    folder = paths.scratch_dir()
    try:
        file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  entered below
    except OSError as error:
        raise ImageError(
            f"cannot write to {folder}: {error.strerror}",
            hint="set APPPOT_TMPDIR to a folder with more room",
        ) from error
    with file:
        yield file


def check_target(path: str, *, replace: bool = True) -> None:
    """Check early that a file can be written; raises UsageError."""
    aside.check(path)
    folder = os.path.dirname(os.path.abspath(path))
    if not os.path.isdir(folder):
        raise UsageError(f"cannot write {path}: there is no folder {folder}")
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"cannot write {path}: no permission to write to {folder}")
    if not replace and os.path.lexists(path):
        raise UsageError(f"{path} exists already")


def write(
    path: str,
    archive: IO[bytes],
    base: Base,
    config: dict[str, Any],
    patterns: Sequence[str] = (),
    how: Pressing | None = None,
) -> Made:
    """Write a changes file from an archive in OCI's form: whole, or not at all.

    Raises ImageError.
    """
    check_target(path)
    with aside.explained(path), aside.whole(path) as file:
        target = aside.path_of(file)
        options, without = pressing.options(how or pressing.wanted()), left_out(patterns)
        made = erofs.make(archive, target, options=options, without=without)
        size = file.seek(0, os.SEEK_END)
        file.write(bytes(-size % changefile.BLOCK))
        file.seek(0)
        digest, size = writer.digest_of(file)
        layer = {"digest": digest, "size": size, "content": made.content}
        file.write(trailer(layer, base, with_layer(config, base, made.content)))
    return Made(path, os.path.getsize(path), made.entries)


def with_layer(config: dict[str, Any], base: Base, content: str) -> dict[str, Any]:
    """Return a configuration whose layers are the base's and this one."""
    rootfs = config.get("rootfs")
    old = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    ids = [*(old if isinstance(old, list) else ())][: base.layers]
    return {**config, "rootfs": {"type": "layers", "diff_ids": [*ids, content]}}


def with_layers(config: dict[str, Any], base: dict[str, Any]) -> dict[str, Any]:
    """Return a configuration with the layers and the history of another one."""
    keys: tuple[str, ...] = ("rootfs", "history")
    return {**config, **{key: base[key] for key in keys if key in base}}


def trailer(layer: dict[str, Any], base: Base, config: dict[str, Any]) -> bytes:
    """Return what follows the layer in a changes file."""
    document = {
        "schema": VERSION,
        "layer": layer,
        "base": {
            "name": base.name,
            "digest": base.digest,
            "chain": base.chain,
            "layers": base.layers,
        },
        "config": config,
        "created": saving.now(),
        "tool": f"apppot {__version__}",
    }
    data = json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
    if len(data) > changefile.BIGGEST_TRAILER:
        raise ImageError(f"the image's configuration is too big for a changes file: {len(data)} B")
    sha = bytes.fromhex(model.digest(data).removeprefix("sha256:"))
    return data + FOOTER.pack(MAGIC, VERSION, 0, len(data), sha)


def left_out(patterns: Sequence[str]) -> Callable[[str], bool] | None:
    """Return what tells whether a path of an archive is left out; None if nothing is.

    A mark for a deleted file is left out as the file would be.
    """
    if not patterns:
        return None
    any_of = re.compile("|".join(fnmatch.translate(pattern) for pattern in patterns), re.DOTALL)

    def without(path: str) -> bool:
        folder, slash, name = path.rpartition("/")
        path = folder + slash + name.removeprefix(".wh.")
        while path:
            if any_of.match(path):
                return True
            path = path.rpartition("/")[0]
        return False

    return without


def apply(path: str, base: str, name: str, *, replace: bool = False) -> str:
    """Make an image of a base and a changes file; return its digest. Raises AppPotError."""
    changes = changefile.read(path)
    image = store.resolve(base)
    chain = model.chain(saving.contents(image.layers))
    if chain != changes.base.chain:
        raise changefile.other_base(changes, image.name, chain)
    full = reference.parse_name(name).full
    into = store.stores()[0]
    with into.writer() as adding:
        if not replace and any(entry.reference == full for entry in into.entries()):
            raise writer.exists(full, into)
        layers = saving.stack(adding, image)
        copy_layer(changes.layer, adding)
        layers.append(
            Descriptor(
                model.LAYER_TYPE, changes.layer.digest, changes.layer.size, changes.layer.content
            )
        )
        return adding.image(
            full,
            layers,
            changes.config,
            annotations=saving.base_annotations(image),
            replace=replace,
        )


def copy_layer(layer: Layer, adding: writer.Writer) -> None:
    """Copy a layer that is a part of a file into a store, and check its digest."""
    target = adding.temporary()
    with open(layer.path, "rb") as source, open(target, "wb") as file:
        source.seek(layer.offset)
        left = layer.size
        while left and (piece := source.read(min(left, writer.PIECE))):
            file.write(piece)
            left -= len(piece)
    try:
        adding.take(target, model.LAYER_TYPE, expected=layer.digest)
    except ImageError as error:
        raise ImageError(f"{layer.path} is damaged: {error.message}") from error


def of_file(path: str, base: Image | None = None) -> Subject:
    """Return the changes in a file, with the layers of its base from the stores.

    Raises ImageError if no store has the base.
    """
    changes = changefile.read(path)
    found = base or find_base(changes.base)
    if found is None:
        raise ImageError(
            f"the base of {path}, '{changes.base.name}' (layers {changes.base.chain[:19]}), is in"
            " no store",
            hint=f"pull or make '{changes.base.name}', or add the store that has it to"
            " APPPOT_STORE",
        )
    return Subject(path, changes.base, found.layers, (changes.layer,), changes.config)


def find_base(base: Base) -> Image | None:
    """Return an image of the stores whose layers are those of a base; None if there is none."""
    candidates = []
    for where in store.stores():
        try:
            entries = where.entries()
        except ImageError:
            continue
        candidates += [
            (entry.reference != base.name, where, entry)
            for entry in entries
            if elsewhere.chain_of(where, entry) == base.chain
        ]
    for _, where, entry in sorted(candidates, key=lambda item: item[0]):
        try:
            return where.image(entry)
        except ImageError:
            continue
    return None


def patterns_for(extra: Sequence[str], *, defaults: bool) -> tuple[str, ...]:
    """Return what is to be left out of changes; see `apppot changes excludes`."""
    return exclude.patterns(extra, defaults=defaults)
