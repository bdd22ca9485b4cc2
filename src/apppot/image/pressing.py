"""How changes files are compressed: mkfs.erofs's options, and whether it knows the method."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum

from apppot.errors import KitError, UsageError
from apppot.image import erofs

CLUSTER = 1 << 20
_HINTS = os.path.join(os.path.dirname(__file__), "mixed.hints")
_METHODS_AT = erofs.MAGIC_OFFSET + 84  # of the superblock: a bit for each method
_LZMA_BIT, _ZSTD_BIT = 1 << 1, 1 << 3


class Method(StrEnum):
    """What compresses; docs/reference/changes-file.md has sizes and times."""

    MIXED = "mixed"  # Zstandard for big files, LZMA for the clusters that small ones share
    ZSTD = "zstd"
    LZMA = "lzma"


_USUAL = {Method.MIXED: 11, Method.ZSTD: 11, Method.LZMA: 6}
BEST = {Method.MIXED: 22, Method.ZSTD: 22, Method.LZMA: 9}


@dataclass(frozen=True)
class Pressing:
    """A method, and how hard it tries; 0: as hard as is usual. A mixture has Zstandard's levels."""

    method: Method
    level: int = 0


FASTEST = Pressing(Method.ZSTD, 1)


def wanted(method: str = "", level: int = 0) -> Pressing:
    """Return what the user asked for, else what is usual; raises AppPotError if it can't be had."""
    if method:
        found = Pressing(Method(method), level)
        require(found.method)
    else:
        lzma = erofs.knows(erofs.mkfs_program(), Method.LZMA)
        found = Pressing(Method.MIXED if lzma else Method.ZSTD, level)
    best = BEST[found.method]
    if not 0 <= level <= best:
        raise UsageError(
            f"--level {level}: a number from 1 to {best} is needed with --compress {found.method}"
        )
    return found


def require(method: Method) -> None:
    """Raise KitError if mkfs.erofs lacks a method: those of older kits have no LZMA."""
    program = erofs.mkfs_program()
    if method is not Method.ZSTD and not erofs.knows(program, Method.LZMA):
        raise KitError(
            f"{program} cannot compress with {Method.LZMA}",
            hint="the kit is older than AppPot: make a new one with 'apppot kit build', or use"
            f" --compress {Method.ZSTD}",
        )


def options(pressing: Pressing) -> tuple[str, ...]:
    """Return mkfs.erofs's options for changes: big clusters that small files share.

    Tails and small files go into fragments. Two other ways into them read archives wrongly (as of
    1.8.6): looking for equal ones, and `all-fragments`.
    """
    level = pressing.level or _USUAL[pressing.method]
    methods, hints = f"{pressing.method},level={level}", []
    if pressing.method is Method.MIXED:
        shared = min(BEST[Method.LZMA], max(1, level * _USUAL[Method.LZMA] // _USUAL[Method.MIXED]))
        methods = f"{Method.LZMA},level={shared}:{Method.ZSTD},level={level}"
        hints = [f"--compress-hints={_HINTS}"]
    return (
        f"-z{methods}",
        f"-C{CLUSTER}",
        f"-Efragments={CLUSTER},fragdedupe=off",
        f"--workers={min(8, len(os.sched_getaffinity(0)))}",
        *hints,
    )


def of_file(path: str) -> Pressing:
    """Return the method by which a layer or changes file is compressed; raises OSError."""
    with open(path, "rb") as file:
        file.seek(_METHODS_AT)
        used = int.from_bytes(file.read(2), "little")
    if used & _LZMA_BIT:
        return Pressing(Method.MIXED if used & _ZSTD_BIT else Method.LZMA)
    return Pressing(Method.ZSTD)
