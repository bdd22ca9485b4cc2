"""What a raw disk or a partition holds, told by its magic numbers. Pure reading."""

from __future__ import annotations

import struct

from apppot.image.parttable import read_at
from apppot.lean import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from typing import IO

MOUNTABLE = ("ext4", "xfs", "erofs", "squashfs")
_SUPERBLOCK = 1024
_XFS_SUPERBLOCK = 512
_EXT_MAGIC = 0xEF53
_HAS_JOURNAL, _RECOVER, _JOURNAL_DEVICE, _EXTENTS = 0x4, 0x4, 0x8, 0x40
_BIT64 = 0x80

# offset, bytes, what it is. The first match counts.
_MAGIC = (
    (0, b"OOOM", "a copy-on-write file of User-Mode Linux"),
    (0, b"QFI\xfb", "a qcow2 image"),
    (0, b"KDMV", "a VMDK image"),
    (0, b"# Disk DescriptorFile", "a VMDK descriptor"),
    (0x40, b"\x7f\x10\xda\xbe", "a VirtualBox VDI image"),
    (0, b"vhdxfile", "a VHDX image"),
    (0, b"conectix", "a VHD image"),
    (0, b"LUKS\xba\xbe", "encrypted (LUKS)"),
    (0, b"\x1f\x8b", "gzip-compressed"),
    (0, b"\xfd7zXZ\0", "xz-compressed"),
    (0, b"BZh", "bzip2-compressed"),
    (0, b"\x28\xb5\x2f\xfd", "zstd-compressed"),
    (0, b"PK\x03\x04", "a zip archive"),
    (0, b"\x7fELF", "a program"),
    (257, b"ustar", "a tar archive"),
    (0x218, b"LVM2 001", "a volume of LVM"),
    (0x18, b"LVM2 001", "a volume of LVM"),
    (0x418, b"LVM2 001", "a volume of LVM"),
    (0x618, b"LVM2 001", "a volume of LVM"),
    (4086, b"SWAPSPACE2", "swap space"),
    (4086, b"SWAP-SPACE", "swap space"),
    (0x1000, b"\xfc\x4e\x2b\xa9", "a member of a software RAID"),
    (0, b"\xfc\x4e\x2b\xa9", "a member of a software RAID"),
    (0x10040, b"_BHRfS_M", "btrfs"),
    (1024, b"\x10\x20\xf5\xf2", "f2fs"),
    (32769, b"CD001", "a CD image"),
    (82, b"FAT32   ", "FAT (as of boot loaders)"),
    (54, b"FAT1", "FAT (as of boot loaders)"),
    (3, b"NTFS    ", "NTFS"),
)
_CONVERTIBLE = ("qcow2", "VMDK image", "VMDK desc", "VDI", "VHDX", "VHD")


@dataclass(frozen=True)
class Content:
    """What was found. `type` is the guest kernel's name for it, '' if it cannot be mounted."""

    what: str
    type: str = ""
    size: int = 0  # bytes that the file system takes up; 0: unknown
    dirty: bool = False  # its journal holds changes that are not in place yet
    last_mounted: str = ""
    superblock: bytes = b""  # changes with every change of the file system

    @property
    def hint(self) -> str:
        """What to do about something that cannot be run."""
        if any(word in self.what for word in _CONVERTIBLE):
            return "make it raw: qemu-img convert -O raw IMAGE disk.img"
        if self.what.endswith("-compressed"):
            return "uncompress it first"
        if self.what == "a tar archive":
            return "make an image of it: apppot import FILE NAME"
        if "User-Mode Linux" in self.what:
            return "merge it into a copy of its disk: uml_moo -b DISK COW NEW (uml-utilities)"
        return "a root file system must be ext2, ext3, ext4, xfs, squashfs or EROFS"


def identify(file: IO[bytes], offset: int, size: int) -> Content | None:
    """Return what the bytes of a disk or a partition are, None if nothing is recognised."""
    head = read_at(file, offset, min(size, 0x10048))
    for tell in (_ext, _xfs, _erofs, _squashfs):
        found = tell(head)
        if found:
            return found
    for at, magic, what in _MAGIC:
        if head[at : at + len(magic)] == magic:
            return Content(what)
    return None


def _ext(head: bytes) -> Content | None:
    block = head[_SUPERBLOCK : 2 * _SUPERBLOCK]
    if len(block) < _SUPERBLOCK or struct.unpack_from("<H", block, 56)[0] != _EXT_MAGIC:
        return None
    low, shift = struct.unpack_from("<4xI16xI", block)
    compatible, incompatible = struct.unpack_from("<II", block, 92)
    high = struct.unpack_from("<I", block, 0x150)[0] if incompatible & _BIT64 else 0
    if shift > 6:  # noqa: PLR2004  64 KiB
        return Content("a damaged ext file system")
    if incompatible & _JOURNAL_DEVICE:
        return Content("the external journal of a file system")
    name = "ext4" if incompatible & _EXTENTS else "ext3" if compatible & _HAS_JOURNAL else "ext2"
    return Content(
        name,
        type="ext4",  # the driver of all three
        size=(low | high << 32) << (10 + shift),
        dirty=bool(compatible & _HAS_JOURNAL and incompatible & _RECOVER),
        last_mounted=_text(block[0x88 : 0x88 + 64]),
        superblock=block,
    )


def _xfs(head: bytes) -> Content | None:
    if head[:4] != b"XFSB" or len(head) < _XFS_SUPERBLOCK:
        return None
    block_size, blocks = struct.unpack_from(">IQ", head, 4)
    return Content(
        "xfs", type="xfs", size=min(block_size * blocks, 1 << 63), superblock=head[:_XFS_SUPERBLOCK]
    )


def _erofs(head: bytes) -> Content | None:
    block = head[_SUPERBLOCK : _SUPERBLOCK + 128]
    if len(block) < 128 or block[:4] != b"\xe2\xe1\xf5\xe0":  # noqa: PLR2004
        return None
    return Content("EROFS", type="erofs", superblock=block)


def _squashfs(head: bytes) -> Content | None:
    if head[:4] != b"hsqs" or len(head) < 96:  # noqa: PLR2004
        return None
    return Content(
        "squashfs",
        type="squashfs",
        size=struct.unpack_from("<Q", head, 40)[0],
        superblock=head[:96],
    )


def _text(data: bytes) -> str:
    return data.split(b"\0", 1)[0].decode("utf-8", "replace")
