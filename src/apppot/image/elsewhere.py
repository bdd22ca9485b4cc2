"""What an image has in other stores of the search path: a user's image on the site's base.

Looked for only if it is not where it usually is, so that `apppot run` pays nothing for it.
"""

from __future__ import annotations

import os

from apppot.errors import ImageError
from apppot.image import model
from apppot.image.store import stores
from apppot.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any

    from apppot.image.model import Descriptor
    from apppot.image.store import Entry, Store


def path_of(store: Store, blob: Descriptor) -> str:
    """Return where another store of the search path has a blob in its right size, or ''."""
    for other in stores():
        if other.path == store.path:
            continue
        path = other.blob_path(blob.digest)
        try:
            if os.stat(path).st_size == blob.size and os.access(path, os.R_OK):
                return path
        except OSError:
            continue
    return ""


def lost(store: Store, blob: Descriptor, name: str, manifest: dict[str, Any]) -> ImageError:
    """Return the error for a layer that no store has, or only damaged."""
    path = store.blob_path(blob.digest)
    try:
        found = os.stat(path).st_size
    except FileNotFoundError:
        pass
    except OSError as error:
        return ImageError(f"damaged image '{name}': blob {path}: {error.strerror}", hint=_REMAKE)
    else:
        return ImageError(
            f"damaged image '{name}': blob {path} has {found} bytes, manifest says {blob.size}",
            hint=_REMAKE,
        )
    searched = dict.fromkeys((store.path, *(other.path for other in stores())))
    base = base_name(manifest)
    on = f", which is based on '{base}'," if base else ""
    return ImageError(
        f"damaged image: '{name}'{on} needs the layer {blob.digest}, which is not in "
        + ", ".join(searched),
        hint=f"add the store that has '{base}' to APPPOT_STORE, or pull or make '{base}' again"
        if base
        else "add the store that has it to APPPOT_STORE; else " + _REMAKE,
    )


_REMAKE = "remove it with 'apppot rm IMAGE', and make or fetch it again"


def base_name(manifest: dict[str, Any]) -> str:
    """Return the name of the base that an image was made on, or ''."""
    annotations = manifest.get("annotations")
    name = annotations.get(model.BASE_NAME) if isinstance(annotations, dict) else None
    return name if isinstance(name, str) else ""


def by_chain(
    prefix: str, searched: list[tuple[Store, tuple[Entry, ...]]]
) -> tuple[Store, Entry] | None:
    """Return the first image whose layers have a chain that begins so.

    Raises ImageError if there are several chains.
    """
    found: dict[str, tuple[Store, Entry]] = {}
    for store, entries in searched:
        for entry in entries:
            chain = chain_of(store, entry)
            if chain.startswith(f"sha256:{prefix}"):
                found.setdefault(chain, (store, entry))
    if len(found) > 1:
        raise ImageError(
            f"several stacks of layers have a digest that begins with {prefix}: "
            + ", ".join(sorted(found)),
            hint="give more digits",
        )
    return next(iter(found.values()), None)


def chain_of(store: Store, entry: Entry) -> str:
    """Return the chain of an image's layers, '' if it is damaged."""
    try:
        layers = [
            model.descriptor(value, "the manifest") for value in store.manifest(entry)["layers"]
        ]
    except ImageError:
        return ""
    return model.chain([layer.content or layer.digest for layer in layers])
