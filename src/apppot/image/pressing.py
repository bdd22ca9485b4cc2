"""How changes files are compressed: mkfs.erofs's options, and whether it knows the method."""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum

from apppot.errors import KitError, UsageError
from apppot.image import erofs

CLUSTER = 1 << 20
_METHODS_AT = erofs.MAGIC_OFFSET + 84  # of the superblock: a bit for each method
_LZMA_BIT = 1 << 1


class Method(StrEnum):
    """What compresses; docs/reference/changes-file.md has sizes and times."""

    ZSTD = "zstd"
    LZMA = "lzma"


_USUAL = {Method.ZSTD: 11, Method.LZMA: 6}
BEST = {Method.ZSTD: 22, Method.LZMA: 9}


@dataclass(frozen=True)
class Pressing:
    """A method, and how hard it tries; 0: as hard as is usual."""

    method: Method = Method.ZSTD
    level: int = 0


USUAL = Pressing()
FASTEST = Pressing(level=1)


def wanted(method: str, level: int) -> Pressing:
    """Return what the user asked for; raises AppPotError if it cannot be had."""
    found = Pressing(Method(method), level)
    best = BEST[found.method]
    if not 0 <= level <= best:
        raise UsageError(
            f"--level {level}: a number from 1 to {best} is needed with --compress {method}"
        )
    require(found.method)
    return found


def require(method: Method) -> None:
    """Raise KitError if mkfs.erofs lacks a method: those of older kits have no LZMA."""
    program = erofs.mkfs_program()
    if method is not Method.ZSTD and not erofs.knows(program, method):
        raise KitError(
            f"{program} cannot compress with {method}",
            hint="the kit is older than AppPot: make a new one with 'apppot kit build', or use"
            f" --compress {Method.ZSTD}",
        )


def options(pressing: Pressing) -> tuple[str, ...]:
    """Return mkfs.erofs's options for changes: big clusters that small files share.

    Tails and small files go into fragments. Two other ways into them read archives wrongly (as of
    1.8.6): looking for equal ones, and `all-fragments`.
    """
    return (
        f"-z{pressing.method},level={pressing.level or _USUAL[pressing.method]}",
        f"-C{CLUSTER}",
        f"-Efragments={CLUSTER},fragdedupe=off",
        f"--workers={min(8, len(os.sched_getaffinity(0)))}",
    )


def of_file(path: str) -> Pressing:
    """Return the method by which a layer or changes file is compressed; raises OSError."""
    with open(path, "rb") as file:
        file.seek(_METHODS_AT)
        used = int.from_bytes(file.read(2), "little")
    return Pressing(Method.LZMA if used & _LZMA_BIT else Method.ZSTD)
