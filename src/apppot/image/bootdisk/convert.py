"""Turn a raw disk into other formats by qemu-img, with the same bytes each time."""

from __future__ import annotations

import os
import struct
from enum import StrEnum
from typing import IO, TYPE_CHECKING

from apppot import process
from apppot.errors import ImageError, UsageError
from apppot.image import aside

if TYPE_CHECKING:
    import uuid


class Format(StrEnum):
    """What a disk can be written as; `ova` is a VMDK with a machine's description."""

    RAW = "raw"
    QCOW2 = "qcow2"
    VMDK = "vmdk"
    VDI = "vdi"
    VHD = "vhd"
    OVA = "ova"


_QEMU = {
    Format.QCOW2: ("qcow2", ()),
    Format.VDI: ("vdi", ()),
    Format.VHD: ("vpc", ("-o", "subformat=dynamic,force_size=on")),
}
_LARGEST_VHD = 2040 << 30
_VDI_IDENTITIES = 0x188
_VHD_FOOTER, _VHD_TIME, _VHD_CHECK, _VHD_IDENTITY = 512, 24, 64, 68


def program() -> str:
    """Return the path of qemu-img, which converts disks; raises AppPotError."""
    return process.find_program("qemu-img", hint="install qemu-utils (qemu-img), or export as raw")


def check(form: Format, size: int) -> None:
    """Check early what a disk of `size` bytes (0: not known yet) needs; raises AppPotError."""
    if form in _QEMU:
        program()
    if form is Format.VHD and size > _LARGEST_VHD:
        raise UsageError(
            f"--size: a VHD has at most {_LARGEST_VHD >> 30}G", hint="export as qcow2 or raw"
        )


def convert(source: IO[bytes], target: IO[bytes], form: Format, identity: uuid.UUID) -> None:
    """Write the raw disk `source` in one of qemu-img's formats; raises AppPotError."""
    kind, options = _QEMU[form]
    files = (aside.path_of(source), aside.path_of(target))
    # One block after the other (-m 1): the order in which they are read is that in the file.
    process.run([program(), "convert", "-q", "-m", "1", "-f", "raw", "-O", kind, *options, *files])
    if form is Format.VDI:
        settle_vdi(target.fileno(), identity)
    elif form is Format.VHD:
        settle_vhd(target.fileno(), identity)


def settle_vdi(file: int, identity: uuid.UUID) -> None:
    """Replace the random identities of a VDI file."""
    os.pwrite(file, identity.bytes_le + identity.bytes_le[::-1], _VDI_IDENTITIES)


def settle_vhd(file: int, identity: uuid.UUID) -> None:
    """Replace the random identity and the time in both footers of a VHD file."""
    for at in (0, os.fstat(file).st_size - _VHD_FOOTER):
        footer = bytearray(os.pread(file, _VHD_FOOTER, at))
        if footer[:8] != b"conectix":
            raise ImageError("qemu-img wrote a VHD file with an unknown footer")
        footer[_VHD_TIME : _VHD_TIME + 4] = bytes(4)
        footer[_VHD_CHECK : _VHD_CHECK + 4] = bytes(4)
        footer[_VHD_IDENTITY : _VHD_IDENTITY + 16] = identity.bytes
        struct.pack_into(">I", footer, _VHD_CHECK, ~sum(footer) & 0xFFFFFFFF)
        os.pwrite(file, footer, at)
