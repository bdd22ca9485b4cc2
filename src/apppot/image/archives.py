"""Read the archives and layouts that other programs write: OCI's and Docker's, as tar or folder."""

from __future__ import annotations

import hashlib
import os
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Protocol

from apppot.errors import ImageError
from apppot.image import compressed, inputs, model, tarread
from apppot.image.registry import manifests
from apppot.image.tarread import FILE, HARD_LINK, SYMLINK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from apppot.image.model import Descriptor
    from apppot.image.registry.manifests import Platform
    from apppot.image.tarread import Entry

INDEX, LAYOUT, DOCKER = "index.json", "oci-layout", "manifest.json"
CONTAINERD_NAME = "io.containerd.image.name"
MOST_FILES = 100_000
MOST_IMAGES = 1000
MOST_LINKS = 5


class Files(Protocol):
    """Files by their paths."""

    def has(self, path: str) -> bool: ...  # noqa: D102

    def size(self, path: str) -> int: ...  # noqa: D102

    def pieces(self, path: str) -> Iterator[bytes]: ...  # noqa: D102


class Folder:
    """The files of a folder; nothing is looked for outside of it."""

    def __init__(self, path: str) -> None:
        self.path = os.path.realpath(path)

    def _real(self, path: str) -> str:
        real = os.path.realpath(os.path.join(self.path, path))
        if os.path.commonpath((real, self.path)) != self.path:
            raise ImageError(f"'{path}' in {self.path} leads out of it")
        return real

    def has(self, path: str) -> bool:
        """Tell whether a file is there."""
        return os.path.isfile(self._real(path))

    def size(self, path: str) -> int:
        """Return a file's size; raises ImageError."""
        try:
            return os.stat(self._real(path)).st_size
        except OSError as error:
            raise ImageError(f"{self.path}: {path}: {error.strerror}") from error

    def pieces(self, path: str) -> Iterator[bytes]:
        """Give a file's contents; raises ImageError."""
        try:
            with open(self._real(path), "rb") as file:
                yield from compressed.pieces_of(file)
        except OSError as error:
            raise ImageError(f"{self.path}: {path}: {error.strerror}") from error


class Archive:
    """The files of a tar archive, read where they are."""

    def __init__(self, file: IO[bytes], name: str) -> None:
        self.name = name
        self.source = tarread.Source(file)
        self.entries: dict[str, Entry] = {}
        for raw, entry in tarread.entries(self.source):
            if len(self.entries) >= MOST_FILES:
                raise ImageError(f"{name} has more than {MOST_FILES} files: it is no image")
            self.entries[_plain(os.fsdecode(raw))] = entry

    def _entry(self, path: str) -> Entry | None:
        path = _plain(path)
        for _ in range(MOST_LINKS):
            entry = self.entries.get(path)
            if entry is None or entry.kind not in {SYMLINK, HARD_LINK}:
                return entry if entry and entry.kind == FILE and entry.pieces is None else None
            link = os.fsdecode(entry.link)
            path = _plain(
                link if entry.kind == HARD_LINK else os.path.join(os.path.dirname(path), link)
            )
        return None

    def has(self, path: str) -> bool:
        """Tell whether a file is there."""
        return self._entry(path) is not None

    def size(self, path: str) -> int:
        """Return a file's size; raises ImageError."""
        return self._there(path).size

    def _there(self, path: str) -> Entry:
        entry = self._entry(path)
        if entry is None:
            raise ImageError(f"{self.name} lacks the file '{path[:200]}'")
        return entry

    def pieces(self, path: str) -> Iterator[bytes]:
        """Give a file's contents; raises ImageError."""
        entry = self._there(path)
        begin, end = entry.data, entry.data + entry.size
        while begin < end:
            piece = self.source.read(begin, min(compressed.PIECE, end - begin))
            if not piece:
                raise tarread.damaged(f"{self.name} ends too early")
            begin += len(piece)
            yield piece


def _plain(path: str) -> str:
    return os.path.normpath("/" + path).lstrip("/")


@contextmanager
def opened(path: str, folder: str) -> Iterator[Files]:
    """Give the files of a folder or an archive, compressed or not; raises ImageError.

    `folder` is where there is room for an unpacked archive.
    """
    if os.path.isdir(path):
        yield Folder(path)
        return
    with inputs.opened(path, folder) as file, compressed.plain_file(file, folder) as plain:
        yield Archive(plain, path)


@dataclass(frozen=True)
class Blob:
    """A layer in the files: where it is, and what it must be. '' if that is not said."""

    path: str
    digest: str = ""


@dataclass(frozen=True)
class Contained:
    """An image that the files contain. `names` may be tags only; `digest` is its manifest's."""

    names: tuple[str, ...]
    digest: str
    config: bytes
    diff_ids: tuple[str, ...]
    layers: tuple[Blob, ...]


def images(files: Files, wanted: Platform, name: str) -> list[Contained]:
    """Return the images that files contain; `name` is theirs for errors. Raises ImageError."""
    if files.has(DOCKER):
        return _docker(files, name)
    if files.has(INDEX):
        return _oci(files, wanted, name)
    raise ImageError(
        f"{name} is neither an OCI layout nor what 'docker save' writes",
        hint="a root file system is taken in with 'apppot import'",
    )


def checked(files: Files, blob: Blob) -> Iterator[bytes]:
    """Give a blob's contents; at the end its digest is checked: raises ImageError."""
    state = hashlib.sha256()
    for piece in files.pieces(blob.path):
        state.update(piece)
        yield piece
    found = f"sha256:{state.hexdigest()}"
    if blob.digest and found != blob.digest:
        raise ImageError(f"the blob {blob.digest} is damaged: it has the digest {found}")


def _small(files: Files, path: str, what: str, limit: int, digest: str = "") -> bytes:
    if files.size(path) > limit:
        raise ImageError(f"{what} has {files.size(path)} bytes")
    return b"".join(checked(files, Blob(path, digest)))


def _blob_path(digest: str) -> str:
    return "blobs/sha256/" + digest.removeprefix("sha256:")


def _document(files: Files, blob: Descriptor, what: str) -> tuple[bytes, dict[str, Any]]:
    limit = manifests.BIGGEST_MANIFEST
    data = _small(files, _blob_path(blob.digest), what, limit, blob.digest)
    return data, manifests.document(data, what)


def _oci(files: Files, wanted: Platform, name: str) -> list[Contained]:
    what = f"the index of {name}"
    data = _small(files, INDEX, what, manifests.BIGGEST_MANIFEST)
    index = manifests.document(data, what)
    listed = index.get("manifests")
    if not isinstance(listed, list) or len(listed) > MOST_IMAGES:
        raise ImageError(f"{what} has no sensible list of manifests")
    found = []
    for value in listed:
        blob = model.descriptor(value, what)
        notes = value.get("annotations")
        notes = notes if isinstance(notes, dict) else {}
        texts = (notes.get(CONTAINERD_NAME), notes.get(model.REF_NAME))
        names = tuple(text for text in texts if isinstance(text, str) and text)[:1]
        image = _image(files, blob, wanted, names, name, alone=len(listed) == 1)
        found += [image] if image else []
    return found


def _image(
    files: Files,
    blob: Descriptor,
    wanted: Platform,
    names: tuple[str, ...],
    name: str,
    *,
    alone: bool,
) -> Contained | None:
    """Return an image; None for one without layers if there are others. Raises ImageError."""
    what = f"the manifest {blob.digest[:19]} in {name}"
    _, document = _document(files, blob, what)
    if manifests.is_index(document):
        blob = manifests.choose(document, wanted, what)
        _, document = _document(files, blob, what)
    if document.get("layers") == [] and not alone:
        return None
    manifest = manifests.manifest(document, what)
    where = f"the configuration {manifest.config.digest[:19]} in {name}"
    config = _small(
        files,
        _blob_path(manifest.config.digest),
        where,
        manifests.BIGGEST_CONFIG,
        manifest.config.digest,
    )
    diff_ids = manifests.diff_ids(config, len(manifest.layers), where)
    layers = tuple(Blob(_blob_path(layer.digest), layer.digest) for layer in manifest.layers)
    return Contained(names, blob.digest, config, diff_ids, layers)


def _docker(files: Files, name: str) -> list[Contained]:
    what = f"{DOCKER} of {name}"
    data = _small(files, DOCKER, what, manifests.BIGGEST_MANIFEST)
    listed = manifests.document(b'{"list":' + data + b"}", what)["list"]
    if not isinstance(listed, list) or len(listed) > MOST_IMAGES:
        raise ImageError(f"{what} has no sensible list of images")
    found = []
    for value in listed:
        value = value if isinstance(value, dict) else {}  # noqa: PLW2901
        path: Any = value.get("Config")
        tags: Any = value.get("RepoTags") or ()
        layers: Any = value.get("Layers")
        if not (isinstance(path, str) and _texts(tags) and _texts(layers)):
            raise ImageError(f"{what} makes no sense")
        where = f"the configuration of an image in {name}"
        config = _small(files, path, where, manifests.BIGGEST_CONFIG)
        diff_ids = manifests.diff_ids(config, len(layers), where)
        digest = model.digest(config)
        found.append(Contained(tuple(tags), digest, config, diff_ids, tuple(map(Blob, layers))))
    return found


def _texts(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
