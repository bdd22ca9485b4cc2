"""How much space images take: each alone, together, and what could be had back."""

from __future__ import annotations

import os
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from apppot.errors import ImageError
from apppot.image import usage
from apppot.image.cleaning import PARTIAL
from apppot.image.listing import SHORT_DIGEST, columns
from apppot.image.sizes import human
from apppot.image.store import BLOBS
from apppot.image.writer import TEMPORARY

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from apppot.image.store import Store

HEAD = ("REFERENCE", "DIGEST", ">SIZE", ">UNIQUE", ">ELSEWHERE")


@dataclass(frozen=True)
class Space:
    """What an image takes, in bytes.

    `size` is all of it, `unique` what would be free without it (and its other names), `elsewhere`
    what lies in other stores.
    """

    reference: str
    digest: str
    size: int
    unique: int
    elsewhere: int
    problem: str = ""


@dataclass(frozen=True)
class Total:
    """What a store takes: each blob counted once."""

    store: str
    images: tuple[Space, ...] = ()
    size: int = 0
    cache: int = 0  # what is there for caches alone
    unused: int = 0  # what nothing needs, temporary files included
    problem: str = ""

    def json(self) -> dict[str, Any]:
        """Return everything for machines to read."""
        return asdict(self)


def measure(store: Store) -> Total:
    """Return what is in a store; a damaged one has a problem."""
    there = _there(store)
    try:
        entries = store.entries()
    except ImageError as error:
        return Total(store.path, size=sum(there.values()), problem=error.message)
    needs: dict[str, dict[str, int]] = {}
    problems: dict[str, str] = {}
    for entry in entries:
        digest = entry.manifest.digest
        if digest not in needs:
            try:
                blobs = usage.blobs_of(store, entry.manifest)
                needs[digest] = {blob.digest: blob.size for blob in blobs.values()}
            except ImageError as error:
                needs[digest], problems[digest] = {digest: entry.manifest.size}, error.message
    users = Counter(blob for blobs_ in needs.values() for blob in blobs_)
    own = {entry.manifest.digest for entry in entries if not entry.cache or entry.reference}
    images = []
    for entry in entries:
        digest = entry.manifest.digest
        if entry.cache and not entry.reference:
            continue
        sizes = needs[digest]
        unique = sum(there.get(blob, 0) for blob in sizes if users[blob] == 1)
        away = sum(size for blob, size in sizes.items() if blob not in there)
        problem = problems.get(digest, "")
        total = sum(sizes.values())
        images.append(Space(entry.reference, digest, total, unique, away, problem))
    by_images = {blob for digest in own for blob in needs[digest]}
    cache = sum(size for blob, size in there.items() if blob in users and blob not in by_images)
    unused = sum(size for blob, size in there.items() if blob not in users) + _temporary(store)
    size = sum(there.values()) + _temporary(store)
    return Total(store.path, tuple(images), size, cache, unused)


def _there(store: Store) -> dict[str, int]:
    """Return the sizes of the blobs in a store."""
    found = {}
    folder = os.path.join(store.path, BLOBS)
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            with suppress(OSError):
                if not entry.name.startswith(TEMPORARY):
                    found[f"sha256:{entry.name}"] = entry.stat().st_size
    return found


def _temporary(store: Store) -> int:
    """Return the size of the temporary files in a store, and of what has arrived in part."""
    size = 0
    for folder in ("", BLOBS, PARTIAL):
        with suppress(OSError), os.scandir(os.path.join(store.path, folder)) as entries:
            for entry in entries:
                with suppress(OSError):
                    if folder == PARTIAL or entry.name.startswith(TEMPORARY):
                        size += entry.stat(follow_symlinks=False).st_size
    return size


def table(totals: Sequence[Total]) -> str:
    """Return the images and the stores as aligned text."""
    parts = []
    for total in totals:
        if total.images:
            parts.append(columns([HEAD, *_rows(total.images)]))
        line = f"{total.store}: {human(total.size)}"
        if total.cache:
            line += f", {human(total.cache)} for builds"
        if total.unused:
            line += f", {human(total.unused)} unused ('apppot gc')"
        parts.append(line + "\n")
    return "".join(parts)


def _rows(images: Iterable[Space]) -> list[tuple[str, ...]]:
    return [
        (
            image.reference or "-",
            image.digest.removeprefix("sha256:")[:SHORT_DIGEST],
            "damaged" if image.problem else human(image.size),
            human(image.unique),
            human(image.elsewhere) if image.elsewhere else "-",
        )
        for image in images
    ]
