"""Partition tables and file systems made by hand, byte by byte, for tests of what reads them."""

from __future__ import annotations

import struct
import uuid
import zlib

SECTOR = 512
ROOT = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"
LINUX = "0fc63daf-8483-4772-8e79-3d69d8477de4"


def entry(kind: int, start: int, length: int, flag: int = 0) -> bytes:
    return struct.pack("<B3xB3xII", flag, kind, start, length)


def boot_sector(*entries: bytes) -> bytes:
    return (b"\0" * 446 + b"".join(entries)).ljust(510, b"\0") + b"\x55\xaa"


def mbr(size: int, *entries: bytes) -> bytearray:
    disk = bytearray(size)
    disk[:SECTOR] = boot_sector(*entries)
    return disk


def put(disk: bytearray, at: int, data: bytes) -> None:
    disk[at : at + len(data)] = data


def ext_superblock(blocks: int, *, compatible: int = 4, incompatible: int = 0x40) -> bytes:
    """Return a superblock with blocks of 1 KiB; defaults: a journal and extents, so ext4."""
    block = bytearray(1024)
    struct.pack_into("<4xI16xI", block, 0, blocks, 0)
    struct.pack_into("<H", block, 56, 0xEF53)
    struct.pack_into("<II", block, 92, compatible, incompatible)
    return bytes(block)


def put_ext(disk: bytearray, offset: int, blocks: int, *, mounted: str = "", **more: int) -> None:
    block = bytearray(ext_superblock(blocks, **more))
    block[0x88 : 0x88 + len(mounted)] = mounted.encode()
    put(disk, offset + 1024, bytes(block))


def gpt(size: int, parts: list[tuple[str, int, int]], *, sector: int = SECTOR) -> bytearray:
    """Return a disk with a GPT and its backup; parts: type, first and last sector."""
    disk = bytearray(size)
    disk[:SECTOR] = boot_sector(entry(0xEE, 1, size // sector - 1))
    entries = bytearray(128 * 128)
    for number, (kind, first, last) in enumerate(parts):
        struct.pack_into(
            "<16s16sQQ", entries, 128 * number, uuid.UUID(kind).bytes_le, b"p" * 16, first, last
        )
    end = size // sector - 1
    count = len(entries) // sector
    for own, other, at in ((1, end, 2), (end, 1, end - count)):
        header = bytearray(sector)
        struct.pack_into("<8sIIII", header, 0, b"EFI PART", 0x10000, 92, 0, 0)
        struct.pack_into("<QQQQ", header, 24, own, other, 2 + count, end - count - 1)
        struct.pack_into("<QIII", header, 72, at, 128, 128, zlib.crc32(entries))
        struct.pack_into("<I", header, 16, zlib.crc32(header[:92]))
        put(disk, own * sector, bytes(header))
        put(disk, at * sector, bytes(entries))
    return disk
