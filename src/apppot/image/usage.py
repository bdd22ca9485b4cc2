"""Which blobs the images of a store need."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from apppot.errors import ImageError
from apppot.image import model

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from apppot.image.model import Descriptor
    from apppot.image.store import Store


def blobs_of(store: Store, manifest: Descriptor) -> dict[str, Descriptor]:
    """Return all blobs that a manifest leads to, itself among them; raises ImageError."""
    found: dict[str, Descriptor] = {}
    pending = [manifest]
    while pending:
        blob = pending.pop()
        if blob.digest in found:
            continue
        found[blob.digest] = blob
        document = store.document(blob, "manifest")
        manifests, leaves = parts(document, f"the manifest {blob.digest}")
        pending.extend(manifests)
        for leaf in leaves:
            found.setdefault(leaf.digest, leaf)
    return found


def parts(document: Any, where: str) -> tuple[list[Descriptor], list[Descriptor]]:
    """Return the manifests and the other blobs that a manifest or an index names.

    Raises ImageError.
    """
    if not isinstance(document, dict):
        raise ImageError(f"damaged image: {where} is not a JSON object")
    manifests = [model.descriptor(v, where) for v in _list(document, "manifests", where)]
    values = [v for v in (document.get("config"), document.get("subject")) if v is not None]
    values += _list(document, "layers", where)
    return manifests, [model.descriptor(value, where) for value in values]


def _list(document: dict[str, Any], key: str, where: str) -> list[Any]:
    value = document.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise ImageError(f"damaged image: '{key}' of {where} is not a list")
    return value


def used_by_others(store: Store, others: Iterable[Store]) -> Iterator[str]:
    """Yield the digests of blobs that images of other stores need and do not have there."""
    for other in others:
        if other.path == store.path:
            continue
        try:
            entries = other.entries()
        except ImageError:
            continue
        for entry in entries:
            try:
                needed = blobs_of(other, entry.manifest)
            except ImageError:
                continue
            yield from (blob for blob in needed if not os.path.exists(other.blob_path(blob)))
