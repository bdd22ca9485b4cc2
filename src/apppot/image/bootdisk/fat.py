"""Write a FAT16 file system with one file in it, in one piece for boot loaders. Pure."""

from __future__ import annotations

import struct
from dataclasses import dataclass

SECTOR = 512
_CLUSTER_SECTORS = 4
_CLUSTER = _CLUSTER_SECTORS * SECTOR
_RESERVED = 4
_ROOT_ENTRIES = 512
_ROOT_SECTORS = _ROOT_ENTRIES * 32 // SECTOR
_FEWEST, _MOST = 4085, 65524  # clusters: fewer is FAT12, more is FAT32
_DATE = 0x21  # 1980-01-01, the first day that it can express
_FOLDER, _FILE, _LABEL = 0x10, 0x20, 0x08
_END = 0xFFFF
ROOM = 1 << 20  # that is left for files of the user's


@dataclass(frozen=True)
class Fat:
    """A file system of `sectors`: its begin, and the sector where the file's content belongs."""

    sectors: int
    head: bytes
    content: int


def make(path: tuple[str, ...], size: int, label: str, serial: int) -> Fat:
    """Return a file system with a file of `size` bytes at `path` (8.3 names, folders first)."""
    folders = len(path) - 1
    clusters = folders + -(-size // _CLUSTER)
    total = max(clusters + ROOM // _CLUSTER, _FEWEST + 100)
    table_sectors = -(-(total + 2) * 2 // SECTOR)
    sectors = _RESERVED + 2 * table_sectors + _ROOT_SECTORS + total * _CLUSTER_SECTORS
    if total > _MOST:
        raise ValueError(f"a file of {size} bytes is too large for FAT16")
    table = _table(folders, clusters, table_sectors)
    names = [_entry(name, _FOLDER, 2 + i) for i, name in enumerate(path[:-1])]
    names.append(_entry(path[-1], _FILE, 2 + folders, size))
    root = _entry(label, _LABEL) + names[0]
    data = b"".join(_folder(i, names[i + 1]) for i in range(folders))
    head = b"".join(
        (
            _boot_sector(sectors, table_sectors, label, serial).ljust(_RESERVED * SECTOR, b"\0"),
            *(table, table),
            root.ljust(_ROOT_SECTORS * SECTOR, b"\0"),
            data,
        )
    )
    return Fat(sectors, head, len(head) // SECTOR)


def _boot_sector(sectors: int, table_sectors: int, label: str, serial: int) -> bytes:
    small = sectors if sectors < 1 << 16 else 0
    sector = struct.pack(
        "<3s8sHBHBHHBHHHII",
        *(b"\xeb\x3c\x90", b"APPPOT  ", SECTOR, _CLUSTER_SECTORS, _RESERVED, 2, _ROOT_ENTRIES),
        *(small, 0xF8, table_sectors, 63, 255, 0, 0 if small else sectors),
    ) + struct.pack("<BBBI11s8s", 0x80, 0, 0x29, serial, label.ljust(11).encode(), b"FAT16   ")
    return sector.ljust(510, b"\0") + b"\x55\xaa"


def _table(folders: int, clusters: int, sectors: int) -> bytes:
    chain = [0xFFF8, _END, *([_END] * folders)]
    chain += [2 + i + 1 for i in range(folders, clusters)]
    if clusters > folders:
        chain[-1] = _END
    return struct.pack(f"<{len(chain)}H", *chain).ljust(sectors * SECTOR, b"\0")


def _entry(name: str, attributes: int, cluster: int = 0, size: int = 0) -> bytes:
    if attributes == _LABEL or name in (".", ".."):
        short = name.ljust(11)
    else:
        stem, _, ending = name.partition(".")
        short = stem.ljust(8) + ending.ljust(3)
    return struct.pack(
        "<11sBBBHHHHHHHI",
        *(short.encode(), attributes, 0, 0, 0, _DATE, _DATE, 0, 0, _DATE, cluster, size),
    )


def _folder(index: int, entry: bytes) -> bytes:
    own = _entry(".", _FOLDER, 2 + index)
    above = _entry("..", _FOLDER, 1 + index if index else 0)
    return (own + above + entry).ljust(_CLUSTER, b"\0")
