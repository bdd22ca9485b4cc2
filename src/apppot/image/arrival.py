"""Layers of other programs arrive: a stream becomes an EROFS layer, or is known already."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from apppot.errors import ImageError
from apppot.image import compressed, elsewhere, erofs, model
from apppot.image.store import BLOBS, stores

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from apppot.image.model import Descriptor
    from apppot.image.store import Store
    from apppot.image.writer import Writer

DIFF_ID = "vnd.apppot.diff-id"  # of a layer's descriptor: the digest of the archive it is made of
ORIGIN_BLOB = "vnd.apppot.origin.blob"  # and the blob that a registry has, as JSON
ORIGIN = "vnd.apppot.origin"  # of a manifest: the reference that it was pulled by


def layer(
    adding: Writer,
    pieces: Iterable[bytes],
    size: int,
    *,
    diff_id: str = "",
    origin: Descriptor | None = None,
) -> Descriptor:
    """Add a layer from the pieces of an archive, compressed or not; raises ImageError.

    `size` is that of the compressed data; with `diff_id`, the archive must have that digest.
    """
    folder = os.path.join(adding.store.path, BLOBS)
    room = compressed.Room(folder, size)
    state = hashlib.sha256()
    with tempfile.TemporaryFile(dir=folder, buffering=0) as archive:
        for piece in compressed.plain(pieces):
            room.take(len(piece))
            state.update(piece)
            archive.write(piece)
        found = f"sha256:{state.hexdigest()}"
        if diff_id and found != diff_id:
            raise ImageError(f"an unpacked layer should have the digest {diff_id}, but has {found}")
        made = erofs.layer(adding, archive)
    return replace(made, extra=extra(found, origin))


def extra(diff_id: str, origin: Descriptor | None) -> tuple[tuple[str, str], ...]:
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
    """Return the layers that need not be made again, by the digests of their archives."""
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
                diff_id = dict(blob.extra).get(DIFF_ID, "")
                if diff_id and diff_id not in found and _is_there(store, blob):
                    found[diff_id] = blob
    return found


def _is_there(store: Store, blob: Descriptor) -> bool:
    try:
        return os.stat(store.blob_path(blob.digest)).st_size == blob.size
    except OSError:
        return bool(elsewhere.path_of(store, blob))


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
    adding.tag(name, blob, replace=replace_)
    return blob.digest
