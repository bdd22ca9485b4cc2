"""Blobs that have arrived in part: kept, so that the next pull goes on where this one ended."""

from __future__ import annotations

import fcntl
import hashlib
import os
import tempfile
import time
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING

from apppot.image import cleaning
from apppot.image.compressed import pieces_of
from apppot.image.registry.transport import RegistryError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from apppot.image.model import Descriptor
    from apppot.image.registry.client import Repository
    from apppot.image.store import Store

FOLDER = cleaning.PARTIAL
KEPT_DAYS = cleaning.PARTIAL_DAYS


class DamagedBlobError(RegistryError):
    """A blob does not have its digest."""


@contextmanager
def place(store: Store, digest: str) -> Iterator[IO[bytes]]:
    """Give the file for a blob; it is kept if the work fails.

    If another pull is at the same blob, or there are no locks, it is a nameless one.
    """
    folder = os.path.join(store.path, FOLDER)
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, digest.removeprefix("sha256:"))
    file = _locked(path)
    if file is None:
        with tempfile.TemporaryFile(dir=folder, buffering=0) as nameless:
            yield nameless
        return
    with file:
        yield file
        with suppress(FileNotFoundError):
            os.unlink(path)


def _locked(path: str) -> IO[bytes] | None:
    """Return the file of that name, for this process alone; None if that cannot be."""
    file = open(path, "a+b", buffering=0)  # noqa: SIM115  the caller's
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        same = os.fstat(file.fileno()).st_ino == os.stat(path).st_ino
    except (BlockingIOError, FileNotFoundError):
        same = False  # another's, or gone
    except OSError:  # there are no locks
        same = False
        with suppress(OSError):
            os.unlink(path)
    if same:
        return file
    file.close()
    return None


def sweep(store: Store, days: float = KEPT_DAYS) -> None:
    """Remove what nobody has gone on with for long."""
    limit = time.time() - days * 86400
    with suppress(OSError), os.scandir(os.path.join(store.path, FOLDER)) as found:
        for entry in found:
            if entry.stat(follow_symlinks=False).st_mtime < limit:
                with suppress(OSError):
                    os.unlink(entry.path)


def fetched(
    repository: Repository, blob: Descriptor, file: IO[bytes], told: Callable[[int], None]
) -> Iterator[bytes]:
    """Give a blob's bytes, those in `file` first; the others are added to it.

    At the end the digest is checked: raises DamagedBlobError. `told` is given sizes of pieces.
    """
    there = file.seek(0, os.SEEK_END)
    if there > blob.size:
        file.truncate(0)
        there = 0
    file.seek(0)
    state = hashlib.sha256()
    for piece in pieces_of(file):
        state.update(piece)
        told(len(piece))
        yield piece
    for piece in repository.blob(blob, there):
        file.write(piece)
        state.update(piece)
        told(len(piece))
        yield piece
    digest = f"sha256:{state.hexdigest()}"
    if digest != blob.digest:
        file.truncate(0)
        raise DamagedBlobError(
            f"the registry {repository.place.host} gives a layer with the digest {digest}, not"
            f" {blob.digest}"
        )
