"""Removing: names, what nothing refers to, what killed writers have left.

Whoever removes blobs holds `blobs.lock` alone, so that no writer is at work. What then lies under a
temporary name was left by one that was killed.
"""

from __future__ import annotations

import calendar
import os
import time
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from apppot.image import locks, usage
from apppot.image.reference import is_digest
from apppot.image.sizes import human
from apppot.image.store import BLOBS, Store, stores
from apppot.image.writer import (
    BLOBS_LOCK,
    INDEX_LOCK,
    TEMPORARY,
    changing,
    explained,
    name_of,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from apppot.image.locks import Held
    from apppot.image.store import Entry

DAY = 24 * 60 * 60
BLOCK = 512  # of st_blocks
PARTIAL = "partial"  # folder of blobs that have arrived in part
PARTIAL_DAYS = 7  # so long they wait for the next pull


@dataclass(frozen=True)
class Cleaned:
    """What was removed, or would be. `busy`: a writer was at work, so that blobs were left."""

    images: tuple[str, ...] = ()
    blobs: int = 0
    temporaries: int = 0
    size: int = 0
    busy: bool = False
    steps: int = 0  # entries of a cache
    paths: tuple[str, ...] = ()

    def told(self) -> str:
        """Return it as text."""
        if self.busy:
            return "something is being written to it; try again when that is done"
        steps = f"{self.steps} steps, " if self.steps else ""
        blobs, files = _count(self.blobs, "blob"), _count(self.temporaries, "temporary file")
        return f"{steps}{blobs} and {files}, {human(self.size)}"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


def remove(store: Store, names: Iterable[str]) -> Cleaned:
    """Remove references (full ones, or digests), then the blobs that nothing refers to.

    The references go at once; the blobs stay for the next time if a writer is at work.
    Raises ImageError.
    """
    wanted = frozenset(names)
    with explained(store, "write to"), changing(store) as index:
        gone = [v for v in index["manifests"] if {name_of(v), v.get("digest")} & wanted]
        index["manifests"] = [v for v in index["manifests"] if v not in gone]
    images = tuple(name_of(value) or value["digest"] for value in gone)
    return replace(clean(store), images=images)


def gc(store: Store, *, days: int, dry_run: bool = False) -> Cleaned:
    """Remove cached steps that were not used for so many days, then what `clean` removes.

    With `dry_run` nothing is changed, nor locked. Raises ImageError.
    """
    if not os.path.isdir(store.path):
        return Cleaned()
    limit = time.time() - days * DAY
    if dry_run:
        kept = [entry for entry in store.entries() if not _expired(entry, limit)]
        steps = len(store.entries()) - len(kept)
        found = _unused(store, kept, days, time.time())
        return replace(_listed(*found), steps=steps)
    steps = 0
    if any(_expired(entry, limit) for entry in store.entries()):
        with changing(store) as index:
            pairs = list(zip(store.entries(), index["manifests"], strict=True))
            index["manifests"] = [v for entry, v in pairs if not _expired(entry, limit)]
            steps = len(pairs) - len(index["manifests"])
    return replace(clean(store, days=days), steps=steps)


def _expired(entry: Entry, limit: float) -> bool:
    """Tell whether an entry is of a cache and was not used since `limit`."""
    if not entry.cache or entry.reference:
        return False
    try:
        return calendar.timegm(time.strptime(entry.used, "%Y-%m-%dT%H:%M:%SZ")) <= limit
    except (ValueError, OverflowError):
        return True


def clean(store: Store, *, days: int = PARTIAL_DAYS) -> Cleaned:
    """Remove the blobs that nothing refers to and what killed writers have left.

    What has arrived in part is kept for so many days, PARTIAL_DAYS at the most. Does nothing while
    a writer is at work. Raises ImageError if an image is damaged: then it is not known what its
    blobs are.
    """
    if not os.path.isdir(os.path.join(store.path, BLOBS)):
        return Cleaned()
    with explained(store, "clean"), ExitStack() as stack:
        try:
            blobs = stack.enter_context(locks.held(store.path, BLOBS_LOCK, wait=False))
        except BlockingIOError:
            return Cleaned(busy=True)
        index = stack.enter_context(locks.held(store.path, INDEX_LOCK))
        cleaned = _listed(*_unused(store, store.entries(), days))
        for path in cleaned.paths:
            _check(blobs, index)
            with suppress(FileNotFoundError):
                os.unlink(path)
    return cleaned


def _check(*held: Held) -> None:
    for lock in held:
        lock.check()


def _unused(
    store: Store, entries: Iterable[Entry], days: int, now: float | None = None
) -> tuple[list[str], list[str]]:
    """Return the paths of temporary files and of blobs that may go; raises ImageError, OSError."""
    folder = os.path.join(store.path, BLOBS)
    if not os.path.isdir(folder):
        return [], []
    temporaries = [*_leftovers(store.path), *_leftovers(folder), *locks.leftovers(store.path, now)]
    temporaries += _partial(store, time.time() - min(days, PARTIAL_DAYS) * DAY)
    used: set[str] = set()
    for entry in entries:
        if entry.manifest.digest not in used:
            used.update(usage.blobs_of(store, entry.manifest))
    used.update(usage.used_by_others(store, stores()))
    with os.scandir(folder) as found:  # not folders, which are nobody's work: fsck tells of them
        names = sorted(each.name for each in found if not each.is_dir(follow_symlinks=False))
    unused = (
        name for name in names if is_digest(f"sha256:{name}") and f"sha256:{name}" not in used
    )
    return temporaries, [os.path.join(folder, name) for name in unused]


def _listed(temporaries: list[str], blobs: list[str]) -> Cleaned:
    """Return what would be removed."""
    size = 0
    for path in (*temporaries, *blobs):
        with suppress(FileNotFoundError):
            found = os.lstat(path)
            size += min(found.st_size, found.st_blocks * BLOCK)  # mkfs.erofs begins with holes
    return Cleaned((), len(blobs), len(temporaries), size, paths=(*temporaries, *blobs))


def _partial(store: Store, limit: float) -> list[str]:
    """Return what has arrived in part and was not gone on with since `limit`."""
    folder = os.path.join(store.path, PARTIAL)
    found = []
    with suppress(FileNotFoundError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(FileNotFoundError):
                if entry.stat(follow_symlinks=False).st_mtime <= limit:
                    found.append(entry.path)
    return sorted(found)


def _leftovers(folder: str) -> list[str]:
    """Return the temporary files in a folder."""
    names = (name for name in sorted(os.listdir(folder)) if name.startswith(TEMPORARY))
    return [os.path.join(folder, name) for name in names]
