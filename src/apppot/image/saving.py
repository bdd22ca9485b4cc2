"""Keep what a machine has changed: as an image of the base's layers and one more."""

from __future__ import annotations

import os
import time
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, Any

from apppot import paths, process
from apppot.capturing import Capture
from apppot.errors import AppPotError, ImageError, UsageError
from apppot.image import aside, elsewhere, erofs, exclude, growing, model, reference, writer
from apppot.image.model import Descriptor
from apppot.image.sizes import human
from apppot.image.store import Entry, Store, stores
from apppot.machine import scratch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from apppot.image.growing import GrowingLayer
    from apppot.image.model import Image, Layer
    from apppot.image.writer import Writer
    from apppot.run import Finished

# An archive without entries: two blocks of zeros (IEEE 1003.1, pax).
EMPTY = 1024


@dataclass(frozen=True)
class Wanted:
    """What is to be kept, and under which name. `replace`: the name may be taken."""

    name: str
    replace: bool = False
    exclude: tuple[str, ...] = ()
    default_excludes: bool = True


@dataclass(frozen=True)
class Saved:
    """A new image; `size` is that of its new layer in bytes, 0 if nothing had been changed."""

    name: str
    digest: str
    size: int


class Place:
    """Where changes go until they are an image: a layer that grows, or else an archive."""

    def __init__(
        self, name: str, archive: IO[bytes], excludes: Sequence[str], *, replace: bool
    ) -> None:
        self.name, self.replace, self.archive = name, replace, archive
        self.layer: GrowingLayer | None = None
        self._stack = ExitStack()
        patterns = tuple(map(os.fsencode, excludes))
        self.capture = Capture(archive.fileno(), patterns, self._begin)

    def _begin(self) -> GrowingLayer | None:
        self.layer = growing.begin(stores()[0], self._stack)
        return self.layer

    def close(self) -> None:
        """End what has not ended."""
        self._stack.close()


@contextmanager
def place(wanted: Wanted, image: str) -> Iterator[Place]:
    """Check that changes could be kept, and give a file for them; raises AppPotError.

    `image` is what is run: saving under its own name replaces it.
    """
    name = reference.parse_name(wanted.name).full
    if reference.is_path(image):
        raise UsageError(
            f"changes to the disk image {image} cannot be saved as an image",
            hint="--write keeps them in the disk itself",
        )
    store = stores()[0]
    replace = wanted.replace or _is_same(name, image)
    with store.writer():
        if not replace and any(entry.reference == name for entry in store.entries()):
            raise writer.exists(name, store)
    patterns = exclude.patterns(wanted.exclude, defaults=wanted.default_excludes)
    folder = paths.scratch_dir()
    try:
        handle = scratch.nameless_file(folder)
    except OSError as error:
        raise ImageError(
            f"no file for the changes can be made in {folder}: {error.strerror}",
            hint="set APPPOT_TMPDIR to a folder with more room",
        ) from error
    with os.fdopen(handle, "w+b") as archive:
        found = Place(name, archive, patterns, replace=replace)
        with closing(found):
            yield found


def _is_same(name: str, image: str) -> bool:
    wanted = reference.parse(image)
    return bool(wanted.name) and not wanted.digest and wanted.full == name


def keep(place: Place, image: Image, history: str) -> Saved:
    """Make the image; raises ImageError, and then says where the archive of the changes is."""
    if place.layer and place.layer.made:
        return _keep_layer(place, place.layer, image, history)
    try:
        return store_changes(
            place.name, image, place.archive, history=history, replace_=place.replace
        )
    except AppPotError as error:
        rescued = rescue(place.archive)
        if not rescued:
            raise
        raise ImageError(
            f"{error.message}; the changes are in {rescued}",
            hint=f"{error.hint}\nthen: apppot commit --archive {rescued} {image.name} {place.name}",
        ) from error


def _keep_layer(place: Place, made: GrowingLayer, image: Image, history: str) -> Saved:
    """Make the image of a layer; raises ImageError, and then says where the changes are."""
    try:
        layer = None
        if made.content:
            taken = made.adding.take(made.path, model.LAYER_TYPE)
            made.path = made.adding.store.blob_path(taken.digest)
            layer = replace(taken, content=made.content)
        layers = stack(made.adding, image)
        return _add(
            made.adding, place.name, image, layers, layer, history=history, replace_=place.replace
        )
    except AppPotError as error:
        rescued = growing.rescue(made, image)
        if not rescued:
            raise
        raise ImageError(
            f"{error.message}; the changes are in {rescued}",
            hint=f"{error.hint}\nthen: apppot changes apply {rescued} {image.name} {place.name}",
        ) from error


def keep_and_tell(place: Place, finished: Finished) -> str:
    """Make the image of a run's changes, and return what to tell the user; raises ImageError."""
    words = [os.fsdecode(word) for word in finished.command.arguments]
    return told(keep(place, finished.image, process.command_line(words)))


def told(saved: Saved) -> str:
    """Return what to tell the user of a new image."""
    size = human(saved.size) if saved.size else "nothing was changed"
    return f"saved as {saved.name} ({size})"


def rescue(archive: IO[bytes]) -> str:
    """Give the archive a name again, so that the changes are not lost; '' if that fails."""
    path = os.path.join(paths.scratch_dir(), f"apppot-changes-{os.getpid()}.tar")
    try:
        aside.link(archive.fileno(), path)
    except OSError:  # it once had a name, where the file system has no nameless files
        return _copy(archive, path)
    return path


def _copy(archive: IO[bytes], path: str) -> str:
    import shutil

    try:
        with open(path, "xb") as target:
            archive.seek(0)
            shutil.copyfileobj(archive, target)
    except OSError:
        return ""
    return path


def store_changes(
    name: str,
    image: Image,
    archive: IO[bytes],
    *,
    history: str,
    replace_: bool = False,
    config: dict[str, Any] | None = None,
) -> Saved:
    """Add an image of another's layers and the changes in `archive`; raises ImageError.

    `archive` is a tar archive in OCI form. Without `config`, the other image's own is taken.
    """
    with stores()[0].writer() as adding:
        layers = stack(adding, image)
        layer = erofs.layer(adding, archive) if archive.seek(0, os.SEEK_END) > EMPTY else None
        return _add(
            adding, name, image, layers, layer, history=history, replace_=replace_, config=config
        )


def _add(
    adding: Writer,
    name: str,
    image: Image,
    layers: list[Descriptor],
    layer: Descriptor | None,
    *,
    history: str,
    replace_: bool,
    config: dict[str, Any] | None = None,
) -> Saved:
    """Add an image of another's layers and one more; raises ImageError."""
    content = (layer.content or layer.digest) if layer else ""
    digest = adding.image(
        name,
        [*layers, layer] if layer else layers,
        _with_layer(config or configuration(image), content, history),
        annotations=base_annotations(image),
        replace=replace_,
    )
    return Saved(name, digest, layer.size if layer else 0)


def stack(adding: Writer, image: Image) -> list[Descriptor]:
    """Return the layers of an image as a new image names them; raises ImageError.

    Those that no store has, because they are parts of other files, are added to the store.
    """
    known = {blob.digest: blob for blob in _descriptors(image)}
    return [_descriptor(adding, layer, known) for layer in image.layers]


def _descriptor(adding: Writer, layer: Layer, known: dict[str, Descriptor]) -> Descriptor:
    if layer.type:
        raise ImageError(
            f"the changes to {layer.path}, a file system of type {layer.type}, cannot be saved as"
            " an image",
            hint="write to the disk itself with --write, or make an image of it with"
            " 'apppot import'",
        )
    blob = known.get(layer.digest) or Descriptor(
        model.LAYER_TYPE, layer.digest, layer.size, layer.content
    )
    there = os.path.exists(adding.store.blob_path(layer.digest))
    if there or elsewhere.path_of(adding.store, blob):
        return blob
    path = adding.temporary()
    with open(layer.path, "rb") as source, open(path, "wb") as target:
        source.seek(layer.offset)
        left = layer.size
        while left > 0 and (piece := source.read(min(left, writer.PIECE))):
            target.write(piece)
            left -= len(piece)
    adding.take(path, model.LAYER_TYPE, expected=layer.digest)
    return blob


def _descriptors(image: Image) -> Iterator[Descriptor]:
    """Yield the layers as the image's manifest has them, with all annotations."""
    found = _find(image)
    if found:
        store, entry = found
        document = store.manifest(entry)
        for value in document["layers"]:
            yield model.descriptor(value, f"the manifest of '{image.name}'")


def _find(image: Image) -> tuple[Store, Entry] | None:
    for store in stores():
        for entry in store.entries():
            if entry.manifest.digest == image.digest:
                return store, entry
    return None


def configuration(image: Image) -> dict[str, Any]:
    """Return an image's whole OCI configuration; a plain one if no store has it."""
    found = _find(image)
    if not found:
        settings = image.config
        inner = {
            "Env": list(settings.env),
            "Entrypoint": list(settings.entrypoint),
            "Cmd": list(settings.cmd),
            "WorkingDir": settings.working_dir,
            "User": settings.user,
        }
        return {
            "architecture": settings.architecture or "amd64",
            "os": "linux",
            "config": {key: value for key, value in inner.items() if value},
        }
    store, entry = found
    blob = model.descriptor(store.manifest(entry)["config"], f"the manifest of '{image.name}'")
    document = store.document(blob, "configuration")
    return dict(document) if isinstance(document, dict) else {}


def _with_layer(document: dict[str, Any], content: str, history: str) -> dict[str, Any]:
    """Return a configuration with one more layer; '': with none."""
    created = now()
    rootfs = document.get("rootfs")
    old = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    done = document.get("history")
    entry: dict[str, Any] = {"created": created, "created_by": history}
    if not content:
        entry["empty_layer"] = True
    return {
        **document,
        "created": created,
        "rootfs": {
            "type": "layers",
            "diff_ids": [*(old if isinstance(old, list) else ()), *((content,) if content else ())],
        },
        "history": [*(done if isinstance(done, list) else ()), entry],
    }


def base_annotations(image: Image) -> dict[str, str]:
    """Return what the manifest says of the image that the changes were made to."""
    return {
        "vnd.apppot.base.name": image.name,
        "vnd.apppot.base.digest": image.digest,
        "vnd.apppot.base.chain": model.chain(contents(image.layers)),
    }


def contents(layers: Sequence[Layer]) -> tuple[str, ...]:
    """Return the content digests of layers, of which their chain is made."""
    return tuple(layer.content or layer.digest for layer in layers)


def now() -> str:
    """Return the time as OCI writes it: `SOURCE_DATE_EPOCH`, or the present."""
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    seconds = int(text) if text.isdigit() else time.time()
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
