"""Write a GUID partition table: protective MBR, both copies of the table. Pure."""

from __future__ import annotations

import struct
import uuid
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from apppot.image.parttable import SECTOR

if TYPE_CHECKING:
    from collections.abc import Sequence

ENTRIES = 128
ENTRY_SIZE = 128
TABLE_SECTORS = 1 + ENTRIES * ENTRY_SIZE // SECTOR
FIRST_USABLE = 1 + TABLE_SECTORS
BOOT_CODE = 440
_HEADER_SIZE = 92

BIOS_BOOT = uuid.UUID("21686148-6449-6e6f-744e-656564454649")
EFI_SYSTEM = uuid.UUID("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
LINUX = uuid.UUID("0fc63daf-8483-4772-8e79-3d69d8477de4")
# What no other system is to touch: orders and layers.
APPPOT = uuid.UUID("e5c5b1e1-9f2c-5b0a-8a0e-6a9c1b6f7d31")


@dataclass(frozen=True)
class Entry:
    """A partition; sectors are counted from the disk's begin."""

    kind: uuid.UUID
    identity: uuid.UUID
    name: str
    first: int
    count: int


def head(disk: uuid.UUID, entries: Sequence[Entry], sectors: int, boot_code: bytes) -> bytes:
    """Return the disk's first sectors."""
    table = _table(entries)
    header = _header(disk, table, sectors, own=1, other=sectors - 1, at=2)
    return _protective(sectors, boot_code) + header + table


def tail(disk: uuid.UUID, entries: Sequence[Entry], sectors: int) -> bytes:
    """Return the disk's last sectors, `TABLE_SECTORS` of them."""
    table = _table(entries)
    return table + _header(
        disk, table, sectors, own=sectors - 1, other=1, at=sectors - TABLE_SECTORS
    )


def _protective(sectors: int, boot_code: bytes) -> bytes:
    if len(boot_code) > BOOT_CODE:
        raise ValueError(f"{len(boot_code)} bytes of boot code")
    covered = min(sectors - 1, 0xFFFFFFFF)
    entry = struct.pack("<B3sB3sII", 0, b"\x00\x02\x00", 0xEE, b"\xff\xff\xff", 1, covered)
    return boot_code.ljust(446, b"\0") + entry + bytes(48) + b"\x55\xaa"


def _table(entries: Sequence[Entry]) -> bytes:
    rows = [
        entry.kind.bytes_le
        + entry.identity.bytes_le
        + struct.pack("<QQQ", entry.first, entry.first + entry.count - 1, 0)
        + entry.name.encode("utf-16-le").ljust(72, b"\0")
        for entry in entries
    ]
    return b"".join(rows).ljust(ENTRIES * ENTRY_SIZE, b"\0")


def _header(disk: uuid.UUID, table: bytes, sectors: int, *, own: int, other: int, at: int) -> bytes:
    def header(check: int) -> bytes:
        return struct.pack(
            "<8sIIIIQQQQ16sQIII",
            *(b"EFI PART", 0x10000, _HEADER_SIZE, check, 0, own, other),
            *(FIRST_USABLE, sectors - TABLE_SECTORS - 1, disk.bytes_le),
            *(at, ENTRIES, ENTRY_SIZE, zlib.crc32(table)),
        )

    return header(zlib.crc32(header(0))).ljust(SECTOR, b"\0")
