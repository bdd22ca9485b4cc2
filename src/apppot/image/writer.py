"""The writing side of stores: blobs and images are added whole or not at all.

Two locks keep writers apart; readers take none. Whoever adds blobs holds `blobs.lock` shared until
the index names them; whoever removes blobs holds it alone. `index.lock` is held for the moment in
which index.json is replaced. So whatever lies in the store under a temporary name while the first
lock can be had alone was left by a writer that was killed.
"""

from __future__ import annotations

import errno
import json
import os
import tempfile
import time
from contextlib import ExitStack, contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any, Self

from apppot.errors import ImageError
from apppot.image import elsewhere, locks, model
from apppot.image.model import Descriptor
from apppot.image.store import BLOBS, INDEX, LAYOUT, Entry, Store

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from types import TracebackType

TEMPORARY = ".tmp-"
BLOBS_LOCK, INDEX_LOCK = "blobs.lock", "index.lock"
PIECE = 1 << 20
LARGE = 16 << 20


class Writer:
    """A context in which blobs can be added and images be named; see `Store.writer`."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._stack = ExitStack()
        self._own: set[str] = set()

    def __enter__(self) -> Self:
        with explained(self.store, "write to"):
            prepare(self.store)
            self._stack.enter_context(locks.held(self.store.path, BLOBS_LOCK, shared=True))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for path in self._own:
            _unlink(path)
        self._stack.close()

    def temporary(self) -> str:
        """Return the path of a new empty file in the blobs' folder, to be given to `take`.

        It is removed at the context's end if it was not taken.
        """
        with explained(self.store, "write to"):
            handle, path = tempfile.mkstemp(
                prefix=TEMPORARY, dir=os.path.join(self.store.path, BLOBS)
            )
            os.close(handle)
        self._own.add(path)
        return path

    def nameless(self) -> IO[bytes]:
        """Return a new file without a name in the blobs' folder."""
        with explained(self.store, "write to"):
            return nameless(os.path.join(self.store.path, BLOBS))

    def take(self, path: str, media_type: str, *, expected: str = "") -> Descriptor:
        """Turn a file from `temporary` into a blob and return its descriptor.

        With `expected`, its digest must be that one. Raises ImageError.
        """
        with explained(self.store, "write to"), open(path, "rb") as file:
            os.fchmod(file.fileno(), 0o444 & ~umask())
            with _syncing(file):
                digest, size = digest_of(file)
            if expected and digest != expected:
                raise ImageError(f"a blob should have the digest {expected}, but has {digest}")
            final = self.store.blob_path(digest)
            # An equal blob is replaced: the one that is there may be damaged.
            os.rename(path, final)
            self._own.discard(path)
            _sync_folder(os.path.dirname(final))
        return Descriptor(media_type, digest, size)

    def add(self, data: bytes, media_type: str) -> Descriptor:
        """Add a small blob and return its descriptor."""
        path = self.temporary()
        with explained(self.store, "write to"), open(path, "wb") as file:
            file.write(data)
        return self.take(path, media_type)

    def add_json(self, document: Mapping[str, Any], media_type: str) -> Descriptor:
        """Add a JSON document in a form that depends on its content alone."""
        text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
        return self.add(text.encode(), media_type)

    def image(
        self,
        name: str,
        layers: Iterable[Descriptor],
        config: Mapping[str, Any],
        *,
        annotations: Mapping[str, str] | None = None,
        replace: bool = False,
    ) -> str:
        """Add an image of layers that are already in the store; return its manifest's digest.

        `name` is a full reference. Raises ImageError if it exists, unless `replace` is set.
        """
        manifest = {
            "schemaVersion": 2,
            "mediaType": model.MANIFEST_TYPE,
            "config": self.add_json(config, model.CONFIG_TYPE).json(),
            "layers": [layer.json() for layer in layers],
        }
        if annotations:
            manifest["annotations"] = dict(annotations)
        blob = self.add_json(manifest, model.MANIFEST_TYPE)
        origin = (annotations or {}).get(model.ORIGIN_DIGEST, "")
        noted = {model.ORIGIN_DIGEST: origin} if origin else None
        self.tag(name, blob, replace=replace, annotations=noted)
        return blob.digest

    def tag(
        self,
        name: str,
        manifest: Descriptor,
        *,
        replace: bool = False,
        annotations: Mapping[str, str] | None = None,
    ) -> None:
        """Let `name` refer to a manifest that is in the store; raises ImageError.

        `name` is '' for an entry of a cache: it has its key as the annotation `model.CACHE`, which
        replaces the one that was there. All blobs of the image must be in some store.
        """
        more = dict(annotations or {})
        key = more.get(model.CACHE, "")
        if key:
            more[model.USED] = _today()
        if name:
            more[model.REF_NAME] = name
        with changing(self.store) as index:
            there = [v for v in index["manifests"] if name and name_of(v) == name]
            if there and not replace and there[0].get("digest") != manifest.digest:
                raise exists(name, self.store)
            _check_blobs(self.store, name or key, manifest)
            kept = [
                value
                for value in index["manifests"]
                if value not in there and not (key and _annotation(value, model.CACHE) == key)
            ]
            blob = Descriptor(manifest.media_type, manifest.digest, manifest.size)
            kept.append(blob.json() | ({"annotations": more} if more else {}))
            index["manifests"] = kept


def _check_blobs(store: Store, name: str, manifest: Descriptor) -> None:
    """Check that an image is whole before it gets a name; raises ImageError."""
    entry = Entry(name, manifest)
    document = store.document(manifest, "manifest")
    if not isinstance(document, dict) or "layers" not in document:
        return  # not an image of ours, which `store.image` tells when it is used
    document = store.manifest(entry)
    for value in (document["config"], *document["layers"]):
        blob = model.descriptor(value, f"the manifest of '{name}'")
        if not (os.path.exists(store.blob_path(blob.digest)) or elsewhere.path_of(store, blob)):
            raise elsewhere.lost(store, blob, name, document)


def _today() -> str:
    """Return the date and the time, as OCI writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def exists(name: str, store: Store) -> ImageError:
    """Return the error for a name that is taken."""
    return ImageError(
        f"the image '{name}' exists already in {store.path}",
        hint=f"choose another name, replace it with --force, or remove it with 'apppot rm {name}'",
    )


def prepare(store: Store) -> None:
    """Make the store's folders and its layout file; raises OSError."""
    os.makedirs(os.path.join(store.path, BLOBS), exist_ok=True)
    layout = os.path.join(store.path, LAYOUT)
    if not os.path.exists(layout):
        with locks.held(store.path, INDEX_LOCK):
            _write_aside(layout, b'{"imageLayoutVersion":"1.0.0"}\n')


@contextmanager
def _syncing(file: IO[bytes]) -> Iterator[None]:
    """Have a file on the disk at the end; a big one gets there while something else is done."""
    descriptor = file.fileno()
    if os.fstat(descriptor).st_size < LARGE:
        yield
        os.fsync(descriptor)
        return
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(os.fsync, descriptor)
        yield
        done.result()


def digest_of(file: IO[bytes]) -> tuple[str, int]:
    """Return digest and size of what is left in `file`."""
    import hashlib

    state, size = hashlib.sha256(), 0
    while piece := file.read(PIECE):
        state.update(piece)
        size += len(piece)
    return f"sha256:{state.hexdigest()}", size


def name_of(value: Any) -> str:
    """Return the reference in a descriptor of the index, or ''."""
    return _annotation(value, model.REF_NAME)


def _annotation(value: Any, key: str) -> str:
    """Return an annotation of a descriptor of the index, or ''."""
    annotations = value.get("annotations") if isinstance(value, dict) else None
    text = annotations.get(key) if isinstance(annotations, dict) else None
    return text if isinstance(text, str) else ""


@contextmanager
def changing(store: Store) -> Iterator[dict[str, Any]]:
    """Give the index to be changed in place; it is replaced as a whole at the end."""
    with explained(store, "write to"), locks.held(store.path, INDEX_LOCK) as lock:
        index = store.index()
        store.entries()  # a damaged index is not built upon
        before = json.dumps(index)
        yield index
        if json.dumps(index) != before:
            lock.check()
            text = json.dumps(index, indent=1) + "\n"
            _write_aside(os.path.join(store.path, INDEX), text.encode())


@contextmanager
def explained(store: Store, what: str) -> Iterator[None]:
    """Turn the system's errors into ones that say what to do."""
    try:
        yield
    except OSError as error:
        hints = {
            errno.ENOSPC: "free some space ('apppot gc', 'apppot rm IMAGE'), or set"
            " APPPOT_STORE to a folder on a bigger disk",
            errno.EDQUOT: "your quota is used up: free some space, or set APPPOT_STORE to a"
            " folder elsewhere",
        }
        read_only = "set APPPOT_STORE to a folder that you can write to"
        raise ImageError(
            f"cannot {what} the store {store.path}: {error.strerror or error}",
            hint=hints.get(error.errno or 0, read_only),
        ) from error


def _write_aside(path: str, data: bytes) -> None:
    """Replace a file by one with this content, so that no reader sees a part of it."""
    folder = os.path.dirname(path)
    handle, temporary = tempfile.mkstemp(prefix=TEMPORARY, dir=folder)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fchmod(handle, 0o666 & ~umask())
            os.fsync(handle)
        os.rename(temporary, path)
    except BaseException:
        _unlink(temporary)
        raise
    _sync_folder(folder)


def nameless(folder: str) -> IO[bytes]:
    """Return a new file without a name; where one is needed for a moment, `cleaning` knows it."""
    return tempfile.TemporaryFile(prefix=TEMPORARY, dir=folder)


def _sync_folder(path: str) -> None:
    """Make a folder's entries last."""
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # some network file systems
            raise
    finally:
        os.close(handle)


def _unlink(path: str) -> None:
    """Remove a file if it is there."""
    with suppress(FileNotFoundError):
        os.unlink(path)


def umask() -> int:
    """Return the process's umask, from the only place that tells it without changing it."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        for line in status:
            if line.startswith("Umask:"):
                return int(line.split()[1], 8)
    return 0o022
