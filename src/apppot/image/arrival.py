"""Layers of other programs arrive: a stream becomes an EROFS layer, or is known already."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from apppot.errors import ImageError
from apppot.image import compressed, elsewhere, erofs, model, tartree
from apppot.image.model import Layer
from apppot.image.store import BLOBS, stores

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from typing import IO

    from apppot.image.model import Descriptor
    from apppot.image.store import Store
    from apppot.image.writer import Writer

DIFF_ID = "vnd.apppot.diff-id"  # of a layer's descriptor: the digest of the archive it is made of
ORIGIN_BLOB = "vnd.apppot.origin.blob"  # and the blob that a registry has, as JSON
BELOW = "vnd.apppot.below"  # the chain of the archives below one that has files of them: see `key`
ORIGIN = "vnd.apppot.origin"  # of a manifest: the reference that it was pulled by


def layer(
    adding: Writer,
    pieces: Iterable[bytes],
    size: int,
    *,
    diff_id: str = "",
    origin: Descriptor | None = None,
    below: Sequence[Descriptor] | None = None,
) -> Descriptor:
    """Add a layer from the pieces of an archive, compressed or not; raises ImageError.

    `size` is that of the compressed data; with `diff_id`, the archive must have that digest.
    `below` are the layers below: without them, one whose hard links lead there raises
    tartree.LinksBelowError.
    """
    folder = os.path.join(adding.store.path, BLOBS)
    room = compressed.Room(folder, size)
    state = hashlib.sha256()
    with adding.nameless() as archive:
        for piece in compressed.plain(pieces):
            room.take(len(piece))
            state.update(piece)
            archive.write(piece)
        archive.flush()
        found = f"sha256:{state.hexdigest()}"
        if diff_id and found != diff_id:
            raise ImageError(f"an unpacked layer should have the digest {diff_id}, but has {found}")
        try:
            made = erofs.layer(adding, archive)
        except tartree.LinksBelowError as error:
            if not below:
                raise
            place = _fetch(adding.store, below, error.paths, archive)
            made = erofs.layer(adding, archive, below=place)
            # Whoever gets it from us gets it with the files in it: not all engines look below.
            return replace(made, extra=((DIFF_ID, found), (BELOW, _chain(below))))
    return replace(made, extra=_extra(found, origin))


def _fetch(
    store: Store, below: Sequence[Descriptor], paths: Iterable[bytes], archive: IO[bytes]
) -> tuple[int, int]:
    """Add an archive of lower layers' files to the end of a file; return its place."""
    from apppot import worker

    begin = archive.seek(0, os.SEEK_END)
    layers = [Layer(each.digest, each.size, _path(store, each)) for each in below]
    with tempfile.TemporaryFile() as wanted:
        wanted.writelines(path + b"\0" for path in sorted(paths))  # so folders come but once
        wanted.seek(0)
        worker.archive(layers, ("files",), archive.fileno(), source=wanted.fileno())
    return begin, archive.seek(0, os.SEEK_END)


def _chain(below: Sequence[Descriptor]) -> str:
    return model.chain([dict(each.extra)[DIFF_ID] for each in below])


def known_as(layer_: Descriptor) -> str:
    """Return a layer's key in `known`, '' if it has none."""
    notes = dict(layer_.extra)
    below = notes.get(BELOW, "")
    return f"{notes.get(DIFF_ID, '')} {below}" if below else notes.get(DIFF_ID, "")


def key(diff_ids: Sequence[str]) -> str:
    """Return the key in `known` of a layer that has files of those below it, the last of these."""
    return f"{diff_ids[-1]} {model.chain(diff_ids[:-1])}"


def _extra(diff_id: str, origin: Descriptor | None) -> tuple[tuple[str, str], ...]:
    """Return a layer's annotations."""
    more = ((DIFF_ID, diff_id),)
    if origin is None:
        return more
    blob = {"mediaType": origin.media_type, "digest": origin.digest, "size": origin.size}
    return (*more, (ORIGIN_BLOB, json.dumps(blob, sort_keys=True)))


def origin_of(layer_: Descriptor) -> Descriptor | None:
    """Return the registry's blob that a layer was made of, if it came from one."""
    text = dict(layer_.extra).get(ORIGIN_BLOB, "")
    if not text:
        return None
    try:
        return model.descriptor(json.loads(text), "a layer's origin")
    except (ValueError, RecursionError, ImageError):
        return None


def known(store: Store) -> dict[str, Descriptor]:
    """Return the layers that need not be made again, by the digests of their archives.

    Those that have files of the layers below them have a `key` instead.
    """
    found: dict[str, Descriptor] = {}
    for each in (store, *(other for other in stores() if other.path != store.path)):
        try:
            entries = each.entries()
        except ImageError:
            continue
        for entry in entries:
            try:
                values = each.manifest(entry)["layers"]
                blobs = [model.descriptor(value, "a manifest") for value in values]
            except ImageError:
                continue
            for blob in blobs:
                name = known_as(blob)
                if name and name not in found and _path(store, blob):
                    found[name] = blob
    return found


def _path(store: Store, blob: Descriptor) -> str:
    """Return where a blob is in its right size, or ''."""
    path = store.blob_path(blob.digest)
    with suppress(OSError):
        if os.stat(path).st_size == blob.size:
            return path
    return elsewhere.path_of(store, blob)


def add_image(
    adding: Writer,
    name: str,
    layers: Sequence[Descriptor],
    config: bytes,
    annotations: Mapping[str, str],
    *,
    replace_: bool = True,
) -> str:
    """Add an image whose configuration is kept as it came; return the manifest's digest."""
    manifest: dict[str, Any] = {
        "schemaVersion": 2,
        "mediaType": model.MANIFEST_TYPE,
        "config": adding.add(config, model.CONFIG_TYPE).json(),
        "layers": [each.json() for each in layers],
    }
    if annotations:
        manifest["annotations"] = dict(annotations)
    blob = adding.add_json(manifest, model.MANIFEST_TYPE)
    noted = {key: annotations[key] for key in (model.ORIGIN_DIGEST,) if key in annotations}
    adding.tag(name, blob, replace=replace_, annotations=noted)
    return blob.digest
