"""Pull an image: its layers become EROFS files as they arrive, in parallel, as any user."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from apppot.errors import ImageError
from apppot.image import arrival, compressed, erofs, model, reference, signatures
from apppot.image.registry import manifests, names, partial
from apppot.image.registry.client import MISSING, Repository
from apppot.image.registry.transport import RegistryError
from apppot.image.store import stores
from apppot.image.tartree import LinksBelowError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from apppot.image.model import Descriptor
    from apppot.image.registry.manifests import Platform
    from apppot.image.registry.names import Place
    from apppot.image.store import Store
    from apppot.image.writer import Writer

AT_ONCE = 3
MOST_INDEXES = 2  # one in another
BIGGEST_SIGNATURE = 4 << 20
DIGITS = 12


@dataclass(frozen=True)
class Pulled:
    """An image that has arrived: its name and digest here, and its digest in the registry."""

    name: str
    digest: str
    origin_digest: str
    fetched: int


@dataclass(frozen=True)
class _Found:
    """What a registry says of an image; `digests` are those of its manifest and its indexes."""

    manifest: manifests.Manifest
    digests: tuple[str, ...]
    config: bytes
    diff_ids: tuple[str, ...]


def pull(
    text: str,
    *,
    name: str = "",
    platform: str = "",
    plain_http: bool = False,
    step: Callable[[str], None] = lambda _: None,
) -> Pulled:
    """Pull the image that `text` names into the first store; raises AppPotError.

    The store gets the image whole or not at all. What has arrived of an interrupted pull is kept.
    """
    place = names.parse(text)
    wanted = manifests.platform(platform)
    local = reference.parse_name(name).full if name else _local_name(text, place)
    store = stores()[0]
    erofs.mkfs_program()
    repository = Repository(place, plain_http=plain_http)
    step(f"asking {place.host}")
    found = _find(repository, wanted, chosen=bool(platform))
    version = f"@{place.digest}" if place.digest else f":{place.tag}"
    full = f"{place.host}/{place.repository}{version}"
    signatures.check(full, found.digests, lambda what: _signature(repository, what))
    with store.writer() as adding:
        partial.sweep(store)
        work = _Work(adding, repository, step)
        layers = work.layers(found.manifest.layers, found.diff_ids)
        annotations = {arrival.ORIGIN: str(place), model.ORIGIN_DIGEST: " ".join(found.digests)}
        digest = arrival.add_image(adding, local, layers, found.config, annotations)
    return Pulled(local, digest, found.digests[0], work.done)


def _local_name(text: str, place: Place) -> str:
    """Return what the image is to be called here: as it was named, or with digits as its tag."""
    rest = text.partition("@")[0]
    if not place.digest or rest.rfind(":") > rest.rfind("/"):
        return place.name
    digits = place.digest.removeprefix("sha256:")[:DIGITS]
    return f"{place.name.rpartition(':')[0]}:sha256-{digits}"


def _find(repository: Repository, wanted: Platform, *, chosen: bool) -> _Found:
    """Return what the registry says of the image; raises ImageError."""
    place = repository.place
    what = f"the manifest of '{place}'"
    data, digest = repository.manifest(place.version)
    digests = [digest]
    document = manifests.document(data, what)
    for _ in range(MOST_INDEXES):
        if not manifests.is_index(document):
            break
        blob = manifests.choose(document, wanted, f"'{place}'")
        data, digest = repository.manifest(blob.digest)
        digests.insert(0, digest)
        document = manifests.document(data, what)
    if manifests.is_index(document):
        raise ImageError(f"'{place}' is an index of indexes of indexes")
    manifest = manifests.manifest(document, what)
    where = f"the configuration of '{place}'"
    config = repository.small_blob(manifest.config, where)
    diff_ids = manifests.diff_ids(config, len(manifest.layers), where)
    if not chosen:
        manifests.check_platform(config, wanted, f"'{place}'")
    return _Found(manifest, tuple(digests), config, diff_ids)


def _signature(repository: Repository, what: str) -> bytes | None:
    """Return the manifest of a tag, or a blob, of the repository; None if it is not there."""
    try:
        if not reference.is_digest(what):
            return repository.manifest(what)[0]
        return repository.any_blob(what, BIGGEST_SIGNATURE)
    except RegistryError as error:
        if error.code == MISSING:
            return None
        raise


class _Stopped(Exception):  # noqa: N818  no error: another layer's is told
    """Another layer has failed."""


class _Work:
    """The layers of one pull. `done` counts the bytes that have arrived."""

    def __init__(self, adding: Writer, repository: Repository, step: Callable[[str], None]) -> None:
        self.adding = adding
        self.store: Store = adding.store
        self.repository = repository
        self.step = step
        self.done = self.total = 0
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def layers(self, blobs: Sequence[Descriptor], diff_ids: Sequence[str]) -> list[Descriptor]:
        """Return the layers, those that are not known fetched and made; raises ImageError."""
        known = arrival.known(self.store)
        missing = {
            diff_ids[number]: blob
            for number, blob in enumerate(blobs)
            if known.keys().isdisjoint((diff_ids[number], arrival.key(diff_ids[: number + 1])))
        }
        self.total = sum(blob.size for blob in missing.values())
        compressed.check_room(self.store.path, 2 * self.total + compressed.RESERVE)
        if missing:
            known.update(self._fetch_all(missing))
        made: list[Descriptor] = []
        for number, blob in enumerate(blobs):
            name = diff_ids[number]
            if name not in known:
                name = arrival.key(diff_ids[: number + 1])
            if name not in known:
                self.step(f"layer {number + 1}: fetching files of those below it")
                known[name] = self._layer(blob, diff_ids[number], made)
            made.append(known[name])
        return made

    def _fetch_all(self, missing: dict[str, Descriptor]) -> dict[str, Descriptor]:
        """Fetch several layers at once; the first error ends the others.

        Those that have files of the layers below are not in the result: they come after these.
        """
        pool = ThreadPoolExecutor(AT_ONCE)
        try:
            # The biggest first, so that it is not what is waited for at the end.
            order = sorted(missing, key=lambda diff_id: -missing[diff_id].size)
            jobs = {d: pool.submit(self._guarded, missing[d], d) for d in order}
            errors = [job.exception() for job in jobs.values()]
        finally:
            self._stop.set()
            pool.shutdown(cancel_futures=True)
        for error in sorted((e for e in errors if e), key=lambda e: isinstance(e, _Stopped)):
            raise error
        self._stop.clear()
        made = {diff_id: job.result() for diff_id, job in jobs.items()}
        return {diff_id: layer for diff_id, layer in made.items() if layer}

    def _guarded(self, blob: Descriptor, diff_id: str) -> Descriptor | None:
        try:
            return self._layer(blob, diff_id, None)
        except LinksBelowError:
            return None
        except BaseException:
            self._stop.set()
            raise

    def _layer(
        self, blob: Descriptor, diff_id: str, below: Sequence[Descriptor] | None
    ) -> Descriptor:
        """Fetch a layer and make it; once more if what was kept of it was damaged."""
        with partial.place(self.store, blob.digest) as file:
            resumed = file.seek(0, os.SEEK_END) > 0
            try:
                return self._made(blob, diff_id, file, below)
            except LinksBelowError:
                raise
            except ImageError as error:
                passing = isinstance(error, RegistryError) and not isinstance(
                    error, partial.DamagedBlobError
                )
                if passing or not resumed:
                    raise
                file.truncate(0)
            return self._made(blob, diff_id, file, below)

    def _made(
        self, blob: Descriptor, diff_id: str, file: IO[bytes], below: Sequence[Descriptor] | None
    ) -> Descriptor:
        told = self._told if below is None else lambda _: None  # has been told the first time
        pieces = self._watched(partial.fetched(self.repository, blob, file, told))
        return arrival.layer(
            self.adding, pieces, blob.size, diff_id=diff_id, origin=blob, below=below
        )

    def _watched(self, pieces: Iterator[bytes]) -> Iterator[bytes]:
        for piece in pieces:
            if self._stop.is_set():
                raise _Stopped
            yield piece

    def _told(self, size: int) -> None:
        with self._lock:
            self.done += size
            if (self.done >> 20) != ((self.done - size) >> 20) or self.done == self.total:
                self.step(f"{self.done >> 20} of {self.total >> 20} MiB")
