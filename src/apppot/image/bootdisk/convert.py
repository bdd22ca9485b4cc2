"""Turn a raw disk into other formats by qemu-img, with the same bytes each time."""

from __future__ import annotations

import os
import re
import struct
import tempfile
from enum import StrEnum
from typing import IO, TYPE_CHECKING

from apppot import paths, process
from apppot.errors import ImageError
from apppot.image import aside
from apppot.image.parttable import SECTOR

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
    Format.VMDK: ("vmdk", ("-o", "subformat=streamOptimized")),
    Format.VDI: ("vdi", ()),
    Format.VHD: ("vpc", ("-o", "subformat=dynamic,force_size=on")),
}
_VDI_IDENTITIES = 0x188
_VHD_FOOTER, _VHD_TIME, _VHD_CHECK, _VHD_IDENTITY = 512, 24, 64, 68
_DESCRIPTION = 20 * SECTOR  # of a VMDK, after its header


def program() -> str:
    """Return the path of qemu-img, which converts disks; raises AppPotError."""
    return process.find_program("qemu-img", hint="install qemu-utils (qemu-img), or export as raw")


def convert(source: IO[bytes], target: IO[bytes], form: Format, identity: uuid.UUID) -> None:
    """Write the raw disk `source` in another format; raises AppPotError."""
    kind, options = _QEMU[form]
    with tempfile.TemporaryDirectory(prefix="apppot-export-", dir=paths.scratch_dir()) as folder:
        # A VMDK holds its own name: what is in it must not depend on the user's.
        name = os.path.join(folder, "disk")
        os.symlink(aside.path_of(target), name)
        raw = aside.path_of(source)
        # One block after the other (-m 1): a VMDK has them in the order in which they were read.
        process.run(
            [program(), "convert", "-q", "-m", "1", "-f", "raw", "-O", kind, *options, raw, name]
        )
    if form is Format.VDI:
        settle_vdi(target.fileno(), identity)
    elif form is Format.VHD:
        settle_vhd(target.fileno(), identity)
    elif form is Format.VMDK:
        settle_vmdk(target.fileno(), identity)


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


def settle_vmdk(file: int, identity: uuid.UUID) -> None:
    """Replace the random number of a VMDK's content, which has up to eight digits."""
    area = os.pread(file, _DESCRIPTION, SECTOR)
    text, rest = area[: area.find(b"\0")], area[area.find(b"\0") :]
    number = f"\nCID={identity.fields[0]:08x}\n".encode()
    settled, count = re.subn(rb"\nCID=[0-9a-f]{1,8}\n", number, text)
    if count != 1 or rest.strip(b"\0"):
        raise ImageError("qemu-img wrote a VMDK file without a description")
    os.pwrite(file, settled.ljust(_DESCRIPTION, b"\0"), SECTOR)
