"""Partition tables of raw disk images: MBR with logical partitions, and GPT. Pure reading.

Every number comes from a file that may be damaged or hostile: all is checked against the file's
size, chains are bounded, and GPT's checksums must be right in one of its two copies.
"""

from __future__ import annotations

import struct
import zlib

from apppot.errors import ImageError
from apppot.lean import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

SECTOR = 512
GPT_ROOT_X86_64 = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"
_SECTOR_SIZES = (512, 4096)
_MBR_MAGIC = b"\x55\xaa"
_GPT_MAGIC = b"EFI PART"
_PROTECTIVE = 0xEE
_EXTENDED = frozenset({0x05, 0x0F, 0x85, 0xC5})
_FIRST_LOGICAL = 5
_MOST_LOGICAL = 128
_LARGEST_ENTRIES = 1 << 20  # bytes; 128 entries of 128 bytes are usual
_NO_TYPE = "00000000-0000-0000-0000-000000000000"


@dataclass(frozen=True)
class Partition:
    """A partition: its number as Linux counts, where it lies in bytes, and its type's code."""

    number: int
    offset: int
    size: int
    kind: str  # a GUID of GPT, or a number as 0x83


@dataclass(frozen=True)
class Table:
    """What a disk begins with; `form` is MBR or GPT."""

    form: str
    partitions: tuple[Partition, ...]


class DamagedTableError(ImageError):
    """A partition table contradicts itself or the disk's size."""


def read_table(file: IO[bytes], size: int, name: str) -> Table | None:
    """Return the partition table of a disk of `size` bytes, None if it has none.

    Raises DamagedTableError.
    """
    first = read_at(file, 0, SECTOR)
    if len(first) < SECTOR or first[510:] != _MBR_MAGIC:
        return None
    entries = [_entry(first, n) for n in range(4)]
    kinds = [kind for _, kind, _, _ in entries]
    if _PROTECTIVE in kinds:
        return _gpt(file, size, name)
    if not any(kinds) or not all(_plausible(first, n, size) for n in range(4)):
        return None  # the boot sector of a file system ends with the same two bytes
    partitions = list(_primary(entries))
    for _, kind, start, length in entries:
        if kind in _EXTENDED:
            number = max(_FIRST_LOGICAL, *(p.number + 1 for p in partitions), 0)
            partitions += _logical(file, size, name, start, length, number)
    _check(partitions, size, name)
    return Table("MBR", tuple(sorted(partitions, key=lambda p: p.number)))


def read_at(file: IO[bytes], offset: int, length: int) -> bytes:
    """Return what is there of the bytes from `offset` on."""
    file.seek(offset)
    return file.read(length)


def _entry(sector: bytes, number: int) -> tuple[int, int, int, int]:
    """Return boot flag, type, start and length (in sectors) of one of an MBR's four entries."""
    flag, kind, start, length = struct.unpack_from("<B3xB3xII", sector, 446 + 16 * number)
    return flag, kind, start, length


def _plausible(sector: bytes, number: int, size: int) -> bool:
    """Tell whether an entry is one, and no code or text that happens to be there."""
    flag, kind, start, length = _entry(sector, number)
    if kind == 0:
        return flag in (0, 0x80)
    return flag in (0, 0x80) and start > 0 and length > 0 and start * SECTOR < max(size, SECTOR * 2)


def _primary(entries: list[tuple[int, int, int, int]]) -> Iterator[Partition]:
    for number, (_, kind, start, length) in enumerate(entries, 1):
        if kind and kind not in _EXTENDED:
            yield Partition(number, start * SECTOR, length * SECTOR, f"{kind:#04x}")


def _logical(
    file: IO[bytes], size: int, name: str, begin: int, length: int, number: int
) -> Iterator[Partition]:
    """Follow the chain of an extended partition; each link describes one partition."""
    link = begin
    seen: set[int] = set()
    while True:
        sector = read_at(file, link * SECTOR, SECTOR)
        if link in seen or len(seen) >= _MOST_LOGICAL or link * SECTOR >= size:
            raise _damaged(name, "its chain of logical partitions has no end")
        if not begin <= link < begin + length or sector[510:] != _MBR_MAGIC:
            raise _damaged(name, f"its chain of logical partitions breaks off at sector {link}")
        seen.add(link)
        following = 0
        for entry in range(2):
            _, kind, start, count = _entry(sector, entry)
            if kind in _EXTENDED:
                following = begin + start
            elif kind and count:
                yield Partition(number, (link + start) * SECTOR, count * SECTOR, f"{kind:#04x}")
                number += 1
        if not following:
            return
        link = following


def _gpt(file: IO[bytes], size: int, name: str) -> Table:
    """Return the table of the first header that is sound: the primary one, then the backup."""
    troubles = []
    for sector in _SECTOR_SIZES:
        for at in (sector, (size // sector - 1) * sector):
            header = read_at(file, max(at, 0), sector)
            if header[:8] != _GPT_MAGIC:
                continue
            try:
                partitions = _gpt_entries(file, size, sector, at, header)
            except ValueError as error:
                which = "primary" if at == sector else "backup"
                troubles.append(f"{which} header: {error}")
                continue
            _check(partitions, size, name)
            return Table("GPT", tuple(partitions))
    raise _damaged(name, "GPT, " + (", ".join(troubles) or "without any header"))


def _gpt_entries(
    file: IO[bytes], size: int, sector: int, at: int, header: bytes
) -> list[Partition]:
    """Return the partitions of a header; raises ValueError if it cannot be trusted."""
    if len(header) < 92:  # noqa: PLR2004  the fields of a header
        raise ValueError("cut off")
    length, crc = struct.unpack_from("<II", header, 12)
    (own,) = struct.unpack_from("<Q", header, 24)
    first, count, entry_size, entries_crc = struct.unpack_from("<QIII", header, 72)
    if not 92 <= length <= len(header):  # noqa: PLR2004
        raise ValueError(f"a length of {length} bytes")
    if zlib.crc32(header[:16] + b"\0\0\0\0" + header[20:length]) != crc:
        raise ValueError("the checksum is wrong")
    if own * sector != at:
        raise ValueError(f"it belongs at sector {own}")
    if entry_size < 128 or entry_size % 8 or not 0 < count * entry_size <= _LARGEST_ENTRIES:  # noqa: PLR2004
        raise ValueError(f"{count} entries of {entry_size} bytes")
    if first * sector >= size:
        raise ValueError("its entries are beyond the disk's end")
    entries = read_at(file, first * sector, count * entry_size)
    if len(entries) < count * entry_size or zlib.crc32(entries) != entries_crc:
        raise ValueError("the checksum of its entries is wrong")
    return list(_gpt_partitions(entries, entry_size, sector))


def _gpt_partitions(entries: bytes, entry_size: int, sector: int) -> Iterator[Partition]:
    for number, at in enumerate(range(0, len(entries), entry_size), 1):
        kind = guid(entries[at : at + 16])
        start, last = struct.unpack_from("<QQ", entries, at + 32)
        if kind == _NO_TYPE:
            continue
        if start == 0 or last < start:
            raise ValueError(f"partition {number} goes from sector {start} to {last}")
        yield Partition(number, start * sector, (last - start + 1) * sector, kind)


def guid(data: bytes) -> str:
    """Return a GUID as it is written; its first three fields are little-endian."""
    first, second, third = struct.unpack_from("<IHH", data)
    rest = data[8:16].hex()
    return f"{first:08x}-{second:04x}-{third:04x}-{rest[:4]}-{rest[4:]}"


def _check(partitions: list[Partition], size: int, name: str) -> None:
    """Raise DamagedTableError if a partition does not fit into the disk."""
    for partition in partitions:
        end = partition.offset + partition.size
        if end > size:
            raise DamagedTableError(
                f"{name}: partition {partition.number} ends at byte {end},"
                f" but the disk image has only {size}",
                hint="the image may have been cut off when it was copied",
            )


def _damaged(name: str, what: str) -> DamagedTableError:
    return DamagedTableError(
        f"{name}: the partition table is damaged: {what}",
        hint="repair it with gdisk or sfdisk, or copy the image again",
    )
