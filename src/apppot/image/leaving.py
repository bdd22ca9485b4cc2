"""Images leave for other programs: layers as compressed archives, configurations that fit them."""

from __future__ import annotations

import hashlib
import json
import zlib
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from apppot.errors import ImageError
from apppot.image import arrival, changes, compressed, model, tarstream
from apppot.image.model import Descriptor
from apppot.image.store import stores

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from apppot.image.model import Image
    from apppot.image.store import Entry, Store
    from apppot.worker import Archivist

GZIP_LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
LEVEL = 6


@contextmanager
def room() -> Iterator[IO[bytes]]:
    """Give a file without a name for an archive: in the user's store, else in the scratch folder.

    The image itself may be in a store that only others can write to. Raises ImageError.
    """
    with ExitStack() as stack:
        try:
            adding = stack.enter_context(stores()[0].writer())
            file = stack.enter_context(adding.nameless())
        except ImageError:
            file = stack.enter_context(changes.temporary())
        yield file


@dataclass(frozen=True)
class Leaving:
    """An image of a store, with its layers as the manifest has them."""

    store: Store
    image: Image
    layers: tuple[Descriptor, ...]
    config: bytes
    archivist: Archivist
    origin: str = ""  # the reference that it was pulled by

    def close(self) -> None:
        """End the machine that archives the layers, if there is one."""
        self.archivist.close()

    def archive(self, number: int, target: IO[bytes]) -> str:
        """Write a layer's canonical archive; return its digest. Raises AppPotError."""
        with room() as archive:
            self.archivist.layer(number, archive.fileno())
            made = tarstream.canonical(archive, target)
        target.flush()
        expected = self.layers[number].content
        if expected and made.content != expected:
            raise ImageError(
                f"layer {number} of '{self.image.name}' should have the content {expected}, but"
                f" has {made.content}",
                hint="look for damage with 'apppot fsck'",
            )
        return made.content

    def packed(self, number: int, target: IO[bytes]) -> tuple[Descriptor, str]:
        """Write a layer's compressed archive; return its blob, and the archive's digest."""
        with room() as plain:
            diff_id = self.archive(number, plain)
            plain.seek(0)
            digest, size = compress(plain, target)
        return Descriptor(GZIP_LAYER, digest, size), diff_id

    def configuration(self, diff_ids: Sequence[str]) -> bytes:
        """Return the configuration for layers with these digests: as it came, if it fits."""
        document = json.loads(self.config)
        rootfs = document.get("rootfs")
        if isinstance(rootfs, dict) and rootfs.get("diff_ids") == list(diff_ids):
            return self.config
        document["rootfs"] = {"type": "layers", "diff_ids": list(diff_ids)}
        document.setdefault("os", "linux")
        history = document.get("history")
        if not isinstance(history, list) or _layers_of(history) != len(diff_ids):
            document.pop("history", None)  # others refuse one that does not fit
        return _json(document)


def of(store: Store, entry: Entry) -> Leaving:
    """Return an image that is to leave, to be closed at the end; raises ImageError."""
    from apppot.worker import Archivist

    image = store.image(entry)
    found = store.manifest(entry)
    where = f"the manifest of '{image.name}'"
    layers = tuple(model.descriptor(value, where) for value in found["layers"])
    blob = model.descriptor(found["config"], where)
    store.document(blob, "configuration")
    with open(store.blob_path(blob.digest), "rb") as file:
        config = file.read()
    notes = found.get("annotations")
    origin = notes.get(arrival.ORIGIN) if isinstance(notes, dict) else None
    origin = origin if isinstance(origin, str) else ""
    return Leaving(store, image, layers, config, Archivist(image.layers), origin)


def _layers_of(history: list[Any]) -> int:
    return sum(1 for each in history if isinstance(each, dict) and not each.get("empty_layer"))


def compress(source: IO[bytes], target: IO[bytes]) -> tuple[str, int]:
    """Compress with gzip, always into the same bytes; return digest and size."""
    machine = zlib.compressobj(LEVEL, zlib.DEFLATED, 31)
    state, size = hashlib.sha256(), 0
    pieces = compressed.pieces_of(source)
    for piece in pieces:
        data = machine.compress(piece)
        state.update(data)
        size += len(data)
        target.write(data)
    data = machine.flush()
    state.update(data)
    target.write(data)
    target.flush()
    return f"sha256:{state.hexdigest()}", size + len(data)


def descriptor(data: bytes, media_type: str) -> Descriptor:
    """Return the descriptor of a small blob."""
    return Descriptor(media_type, model.digest(data), len(data))


def manifest(config: Descriptor, layers: Sequence[Descriptor]) -> bytes:
    """Return an OCI manifest."""
    plain = [Descriptor(each.media_type, each.digest, each.size).json() for each in layers]
    return _json(
        {
            "schemaVersion": 2,
            "mediaType": model.MANIFEST_TYPE,
            "config": config.json(),
            "layers": plain,
        }
    )


def _json(document: Any) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()
