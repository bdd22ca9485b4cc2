"""The reading side of stores: OCI image layout folders whose layers are EROFS files.

This module is on the way to `apppot run`: it reads three small files and looks at the layers'
sizes. What writes is in `apppot.image.writer`.
"""

from __future__ import annotations

import json
import os

from apppot import paths
from apppot.errors import ImageError
from apppot.image import model, reference
from apppot.image.model import Image, ImageConfig, Layer
from apppot.lean import TYPE_CHECKING, dataclass, replace

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from apppot.image.cleaning import Cleaned
    from apppot.image.model import Descriptor
    from apppot.image.reference import Reference
    from apppot.image.writer import Writer

__all__ = ["Entry", "Image", "ImageConfig", "Layer", "Store", "resolve", "stores"]

INDEX = "index.json"
LAYOUT = "oci-layout"
BLOBS = os.path.join("blobs", "sha256")
BIGGEST_JSON = 16 << 20  # a manifest or a configuration beyond that is not one


@dataclass(frozen=True)
class Entry:
    """A line of a store's index: a reference ('' if it has none), and its manifest."""

    reference: str
    manifest: Descriptor
    cache: str = ""  # the key of an entry that is no image of the user's, but of a cache
    used: str = ""
    origin: str = ""  # the digests that a registry has for it: its manifest's and its indexes'

    @property
    def digests(self) -> tuple[str, ...]:
        """The digests that it is known by: its own first."""
        return (self.manifest.digest, *self.origin.split())


class Store:
    """One store. Making the object touches nothing; a store that is not there is empty."""

    def __init__(self, path: str) -> None:
        self.path = path

    def __repr__(self) -> str:
        return f"Store({self.path!r})"

    def blob_path(self, digest: str) -> str:
        """Return where the blob of that digest is, or would be."""
        return os.path.join(self.path, BLOBS, digest.removeprefix("sha256:"))

    def index(self) -> dict[str, Any]:
        """Return the parsed index.json; an empty index if there is none. Raises ImageError."""
        path = os.path.join(self.path, INDEX)
        try:
            with open(path, "rb") as file:
                data = file.read()
        except (FileNotFoundError, NotADirectoryError):
            return {"schemaVersion": 2, "mediaType": model.INDEX_TYPE, "manifests": []}
        except OSError as error:
            raise ImageError(f"cannot read the store's index {path}: {error.strerror}") from error
        document = _json(data, f"the store's index {path}")
        if not isinstance(document, dict) or not isinstance(document.get("manifests"), list):
            raise ImageError(
                f"the store's index {path} is damaged: it has no list of manifests",
                hint=f"put {INDEX} back from a backup, or move the store away",
            )
        return document

    def entries(self) -> tuple[Entry, ...]:
        """Return the index's lines in their order; raises ImageError."""
        where = f"the store's index {os.path.join(self.path, INDEX)}"
        found = []
        for value in self.index()["manifests"]:
            manifest = model.descriptor(value, where)
            texts = dict(manifest.extra)
            name, cache = texts.get(model.REF_NAME, ""), texts.get(model.CACHE, "")
            if not name.isprintable():  # nobody could type it, and a terminal may act on it
                name = ""
            used, origin = texts.get(model.USED, ""), texts.get(model.ORIGIN_DIGEST, "")
            found.append(Entry(name, manifest, cache, used, origin))
        return tuple(found)

    def cached(self, key: str) -> Entry | None:
        """Return the entry that a cache has made under `key`; raises ImageError."""
        return next((entry for entry in self.entries() if entry.cache == key), None)

    def document(self, blob: Descriptor, what: str) -> Any:
        """Return a parsed JSON blob, checked against its size and digest; raises ImageError.

        It is read from another store of the search path if it is not in this one.
        """
        where = f"{what} {blob.digest[:19]} in {self.path}"
        if blob.size > BIGGEST_JSON:
            raise ImageError(f"damaged image: {where} would have {blob.size} bytes")
        path = self.blob_path(blob.digest)
        try:
            try:
                data = _read(path, blob.size + 1)
            except FileNotFoundError:
                from apppot.image import elsewhere

                path = elsewhere.path_of(self, blob) or path
                data = _read(path, blob.size + 1)
        except OSError as error:
            raise ImageError(f"damaged image: {where}: {error.strerror}", hint=_REMAKE) from error
        if len(data) != blob.size:
            raise ImageError(
                f"damaged image: {where} does not have the size {blob.size}",
                hint=_REMAKE,
            )
        if model.digest(data) != blob.digest:
            raise ImageError(f"damaged image: {where} does not match its digest", hint=_REMAKE)
        return _json(data, where)

    def manifest(self, entry: Entry) -> dict[str, Any]:
        """Return an entry's manifest, checked as far as `image` uses it; raises ImageError."""
        document = self.document(entry.manifest, "manifest")
        if (
            isinstance(document, dict)
            and isinstance(document.get("layers"), list)
            and isinstance(document.get("config"), dict)
        ):
            return document
        name = entry.reference or entry.manifest.digest
        if isinstance(document, dict) and isinstance(document.get("manifests"), list):
            raise ImageError(f"'{name}' is an index of several images, not an image")
        raise ImageError(f"damaged image: the manifest of '{name}' lacks config or layers")

    def image(self, entry: Entry) -> Image:
        """Return the image of an entry; all its blobs are in some store, with the right sizes.

        Raises ImageError.
        """
        name = entry.reference or entry.manifest.digest
        document = self.manifest(entry)
        where = f"the manifest of '{name}'"
        blob = model.descriptor(document["config"], where)
        config = model.config(
            self.document(blob, "configuration"), f"the configuration of '{name}'"
        )
        layers = tuple(
            self._layer(model.descriptor(value, where), name, document)
            for value in document["layers"]
        )
        if not layers:
            raise ImageError(f"the image '{name}' has no layers: there is nothing to boot")
        return Image(name, entry.manifest.digest, layers, config)

    def _layer(self, blob: Descriptor, name: str, manifest: dict[str, Any]) -> Layer:
        """Return a layer whose file is there, or in another store; raises ImageError."""
        if blob.media_type != model.LAYER_TYPE:
            raise ImageError(
                f"the image '{name}' has a layer of type '{blob.media_type}', which cannot be"
                " booted",
                hint=f"layers must be EROFS files of type {model.LAYER_TYPE}",
            )
        path = self.blob_path(blob.digest)
        try:
            sound = os.stat(path).st_size == blob.size
        except OSError:
            sound = False
        if not sound:
            from apppot.image import elsewhere

            path = elsewhere.path_of(self, blob)
            if not path:
                raise elsewhere.lost(self, blob, name, manifest)
        return Layer(blob.digest, blob.size, path, content=blob.content)

    def writer(self) -> Writer:
        """Return a context in which blobs and images can be added; raises ImageError."""
        from apppot.image.writer import Writer

        return Writer(self)

    def remove(self, names: Iterable[str]) -> Cleaned:
        """Remove references, then the blobs that nothing refers to; raises ImageError."""
        from apppot.image import cleaning

        return cleaning.remove(self, names)

    def clean(self) -> Cleaned:
        """Remove what killed writers have left, and the blobs that nothing refers to."""
        from apppot.image import cleaning

        return cleaning.clean(self)


_REMAKE = "remove it with 'apppot rm IMAGE', and make or fetch it again"


def stores() -> tuple[Store, ...]:
    """Return the stores to search, in order; the first one is written to."""
    return tuple(Store(path) for path in dict.fromkeys(paths.store_dirs()))


def find(text: str) -> tuple[Store, Entry]:
    """Return the store and the entry that `text` names; raises UsageError or ImageError."""
    wanted = reference.parse(text)
    problems = []
    searched = []
    for store in stores():
        try:
            entries = store.entries()
        except ImageError as error:
            if not _forbidden(store):
                raise
            problems.append(error.message)  # a site's store that is not for this user
            continue
        searched.append((store, entries))
        for entry in entries:
            if matches(entry, wanted):
                return store, entry
    alike = _by_place(wanted, searched) if wanted.name else None
    if alike:
        return alike
    if wanted.prefix:
        found = _by_prefix(wanted.prefix, searched)
        if not found:
            from apppot.image import elsewhere

            found = elsewhere.by_chain(wanted.prefix, searched)
        if found:
            return found
    from apppot.image.missing import not_found

    raise not_found(wanted, searched, problems)


def resolve(text: str) -> Image:
    """Return the image that `text` names, ready to be booted; raises UsageError or ImageError."""
    store, entry = find(text)
    return store.image(entry)


def matches(entry: Entry, wanted: Reference) -> bool:
    """Tell whether an entry is what was named by name; a digest beats the tag.

    The digest may be the one that the image has in this store, or in the registry it is from.
    """
    if not wanted.name:
        return False
    if wanted.digest:
        name = entry.reference.rpartition(":")[0]
        return wanted.digest in entry.digests and name == wanted.name
    return entry.reference == wanted.full


def _by_place(
    wanted: Reference, searched: list[tuple[Store, tuple[Entry, ...]]]
) -> tuple[Store, Entry] | None:
    """Return the first entry whose name leads to the same place in a registry."""
    from apppot import config

    default = config.text("registry.default")
    place = reference.place(wanted.name, default)
    for store, entries in searched:
        for entry in entries:
            name = entry.reference.rpartition(":")[0]
            if reference.place(name, default) == place and matches(
                entry, replace(wanted, name=name)
            ):
                return store, entry
    return None


def _by_prefix(
    prefix: str, searched: list[tuple[Store, tuple[Entry, ...]]]
) -> tuple[Store, Entry] | None:
    """Return the one entry whose digest begins so; raises ImageError if several do."""
    found: dict[str, tuple[Store, Entry]] = {}
    for store, entries in searched:
        for entry in entries:
            for digest in entry.digests:
                if digest.startswith(f"sha256:{prefix}"):
                    found.setdefault(digest, (store, entry))
    if len(found) > 1:
        raise ImageError(
            f"several images have a digest that begins with {prefix}: " + ", ".join(sorted(found)),
            hint="give more digits",
        )
    return next(iter(found.values()), None)


def _forbidden(store: Store) -> bool:
    """Tell whether this user may not read the store."""
    return not os.access(os.path.join(store.path, INDEX), os.R_OK)


def _read(path: str, most: int) -> bytes:
    """Return a file's first bytes; raises OSError."""
    with open(path, "rb") as file:
        return file.read(most)


def _json(data: bytes, where: str) -> Any:
    """Return parsed JSON; raises ImageError."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ImageError(
            f"{where} is damaged: not JSON ({error})",
            hint="put it back from a backup, or move the store away and make the images again",
        ) from error
