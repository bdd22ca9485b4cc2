"""Linux's boot protocol on a PC: the kernel's parts, and what a BIOS boot loader has to load. Pure.

See the kernel's Documentation/arch/x86/boot.rst.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from apppot.errors import ImageError
from apppot.image.parttable import SECTOR

SETUP_ADDRESS = 0x10000
_COMMAND_LINE = 0xE000  # after the real-mode part, its heap and its stack
KERNEL_ADDRESS = 0x100000
_MIB = 1 << 20
_HEADER_END = 0x264
_TABLE_ROWS = SECTOR // 16 - 1


@dataclass(frozen=True)
class Piece:
    """Sectors of the disk, and the address in memory where they belong."""

    sector: int
    count: int
    address: int


@dataclass(frozen=True)
class Kernel:
    """A bzImage: its real-mode part's length, and where its first file system may lie."""

    image: bytes
    setup: int
    initrd_address: int


def parse(image: bytes) -> Kernel:
    """Return the kernel; raises ImageError if it is none."""
    if image[0x202:0x206] != b"HdrS" or len(image) < _HEADER_END:
        raise ImageError("the kit's PC kernel is not a bzImage", hint="build the kit again")
    setup = ((image[0x1F1] or 4) + 1) * SECTOR
    preferred, size = struct.unpack_from("<QI", image, 0x258)
    return Kernel(image, setup, -(-(preferred + size) // _MIB) * _MIB)


def real_mode(kernel: Kernel, command_line: bytes, initrd_size: int) -> bytes:
    """Return the real-mode part with all that a boot loader has to fill in, and the command line.

    It is to be loaded at `SETUP_ADDRESS` and entered there, 512 bytes after its begin.
    """
    if len(command_line) > 2047 or kernel.setup > _COMMAND_LINE:  # noqa: PLR2004  COMMAND_LINE_SIZE
        raise ImageError("the kernel's command line is too long")
    setup = bytearray(kernel.image[: kernel.setup])
    struct.pack_into("<H", setup, 0x1FA, 0xFFFF)  # the screen as it is
    setup[0x210] = 0xFF  # a boot loader without a number
    setup[0x211] |= 0x80  # there is a heap
    struct.pack_into("<II", setup, 0x218, kernel.initrd_address, initrd_size)
    struct.pack_into("<HxxI", setup, 0x224, _COMMAND_LINE - 0x200, SETUP_ADDRESS + _COMMAND_LINE)
    whole = bytes(setup).ljust(_COMMAND_LINE, b"\0") + command_line + b"\0"
    return whole.ljust(-(-len(whole) // SECTOR) * SECTOR, b"\0")


def table(pieces: list[Piece]) -> bytes:
    """Return the sector that guest/bios.S reads."""
    if len(pieces) > _TABLE_ROWS:
        raise ValueError(f"{len(pieces)} pieces")
    rows = [struct.pack("<QII", each.sector, each.count, each.address) for each in pieces]
    return b"".join(rows).ljust(SECTOR, b"\0")


def boot_sector(loader: bytes, table_sector: int) -> bytes:
    """Return the boot code with the place of its table."""
    return loader[:-8] + struct.pack("<Q", table_sector)
