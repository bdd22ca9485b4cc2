"""Make a raw disk of an image: table, boot loaders, kernel, layers, writable partition."""

from __future__ import annotations

import errno
import os
import re
import uuid
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from apppot import kit, process
from apppot.errors import ImageError, UsageError
from apppot.image.bootdisk import fat, gpt, linux, orders, pe
from apppot.image.parttable import SECTOR

if TYPE_CHECKING:
    from collections.abc import Sequence

    from apppot.image.model import Image
    from apppot.kit import Kit

_MIB = 1 << 20
_ALIGNED = _MIB // SECTOR
_TABLE = 64  # the sector of the BIOS loader's table; the partition for BIOS begins there
_LAYER_ALIGNED = 4096
SMALLEST_DATA = 64 * _MIB
LARGEST_PAYLOAD = 131072  # what guest/userdata.h takes
_LARGEST_KEY = 16384
_KEY = re.compile(rb"(?:ssh|ecdsa|sk-ssh|sk-ecdsa)-[\w@.-]+ [A-Za-z0-9+/=]+(?: [^\r\n]*)?")
_EPOCH = "1767225600"  # 2026-01-01, the times of files in a new writable partition
_EXTENDED = "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0"
_FEATURES = "has_journal,extent,64bit,meta_bg,^resize_inode,metadata_csum,dir_index,filetype"


class Firmware(StrEnum):
    """What starts the disk."""

    BIOS = "bios"
    UEFI = "uefi"
    BOTH = "both"


@dataclass(frozen=True)
class Request:
    """What a disk is to be. `size` in bytes, 0: the smallest; `payload` is a script."""

    firmware: Firmware = Firmware.BOTH
    size: int = 0
    payload: bytes = b""
    stay: bool = False
    ssh_key: bytes = b""  # a line of authorized_keys
    hostname: str = "apppot"
    consoles: tuple[str, ...] = ("tty0", "ttyS0,115200")
    arguments: tuple[str, ...] = ()


def read_payload(path: str) -> bytes:
    """Return the script in a file; raises UsageError if the keeper would not run it."""
    try:
        with open(path, "rb") as stream:
            script = stream.read(LARGEST_PAYLOAD + 1)
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    if not script.startswith(b"#!"):
        raise UsageError(f"{path} is not a script: its first line has to begin with #!")
    if len(script) > LARGEST_PAYLOAD:
        raise UsageError(
            f"{path} has more than {LARGEST_PAYLOAD} bytes",
            hint="put the program into the image, and let the script call it",
        )
    return script


def read_key(path: str) -> bytes:
    """Return the public key in a file; raises UsageError if it is none."""
    try:
        with open(path, "rb") as stream:
            key = stream.read(_LARGEST_KEY + 1).strip()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    if not _KEY.fullmatch(key) or len(key) > _LARGEST_KEY:
        raise UsageError(
            f"{path} is not an SSH public key", hint="it is one line: ssh-ed25519 AAAA... NAME"
        )
    return key


@dataclass(frozen=True)
class _Boot:
    """The kit's part of a disk, read."""

    kernel: linux.Kernel
    initrd: bytes
    bios: bytes
    efi: bytes


@dataclass
class _Plan:
    """Where everything lies, in sectors."""

    entries: list[gpt.Entry] = field(default_factory=list)
    end: int = _TABLE

    def add(self, kind: uuid.UUID, identity: uuid.UUID, name: str, count: int) -> int:
        """Add a partition and return its first sector."""
        first = self.end
        self.end = -(-(first + count) // _ALIGNED) * _ALIGNED
        self.entries.append(gpt.Entry(kind, identity, name, first, self.end - first))
        return first


def make(image: Image, tools: Kit, request: Request, target: int) -> int:
    """Write the disk to the empty file `target` and return its size; raises AppPotError."""
    boot = _read_boot(tools)
    for layer in image.layers:
        if layer.type:
            raise ImageError(f"a layer of {image.name} is {layer.type}, and not EROFS")
    identities = names(image, request)
    offsets, length = _stack([layer.size for layer in image.layers])
    content = orders.encode(
        orders.machine(identities, offsets, request.hostname),
        orders.runner(image.config),
        request.payload,
        request.ssh_key,
        stay=request.stay,
    )
    program = pe.make(
        boot.efi,
        {
            ".cmdline": command_line(identities, request).encode("utf-16-le") + b"\0\0",
            ".initrd": boot.initrd,
            ".linux": boot.kernel.image,
        },
    )
    volume = fat.make(_path(request.firmware), len(program.content), "APPPOT", 0x41505054)
    plan = _Plan()
    plan.add(gpt.BIOS_BOOT, _part(identities, "b"), "apppot-bios", 1)
    esp = plan.add(gpt.EFI_SYSTEM, _part(identities, "e"), "apppot-boot", volume.sectors)
    place = plan.add(gpt.APPPOT, identities.orders, "apppot-orders", -(-len(content) // SECTOR))
    layers = plan.add(gpt.APPPOT, identities.layers, "apppot-layers", -(-length // SECTOR))
    count = _data_sectors(plan.end, request.size)
    data = plan.add(gpt.LINUX, identities.data, "apppot-data", count)
    sectors = plan.end + _ALIGNED
    os.ftruncate(target, sectors * SECTOR)
    # First, while the file has little that mke2fs would wait for: it writes all of it to the disk.
    _format(tools, target, identities.data, data * SECTOR, plan.entries[-1].count * SECTOR)
    code = b""
    if request.firmware is not Firmware.UEFI:
        line = command_line(identities, request).encode()
        code = linux.boot_sector(boot.bios, _TABLE)
        _put(target, _TABLE, _bios(boot, line, program, esp + volume.content))
    _put(target, 0, gpt.head(identities.disk, plan.entries, sectors, code))
    _put(target, esp, volume.head)
    _put(target, esp + volume.content, program.content)
    _put(target, place, content)
    for layer, offset in zip(image.layers, offsets, strict=True):
        _copy(layer.path, layer.offset, layer.size, target, layers * SECTOR + offset)
    _put(target, sectors - gpt.TABLE_SECTORS, gpt.tail(identities.disk, plan.entries, sectors))
    return sectors * SECTOR


def names(image: Image, request: Request) -> orders.Names:
    """Return the identities of a disk's parts."""
    return orders.names(f"{image.digest} {request!r}")


def _read_boot(tools: Kit) -> _Boot:
    def read(name: str) -> bytes:
        with open(tools.file(name), "rb") as stream:
            return stream.read()

    return _Boot(
        linux.parse(read(kit.PC_KERNEL)),
        read(kit.AGENT) + read(kit.KEEPER),
        read(kit.BIOS_LOADER),
        read(kit.EFI_LOADER),
    )


def _path(firmware: Firmware) -> tuple[str, ...]:
    """Return the name of the boot program; UEFI does not look for the other one."""
    return ("EFI", "APPPOT" if firmware is Firmware.BIOS else "BOOT", "BOOTX64.EFI")


def _part(identities: orders.Names, name: str) -> uuid.UUID:
    return uuid.uuid5(identities.disk, name)


def command_line(identities: orders.Names, request: Request) -> str:
    """Return the kernel's command line for a disk with these identities."""
    return " ".join(
        (
            *("apppot.channel=exec:/keeper", f"apppot.disk={identities.orders}"),
            *(f"console={each}" for each in request.consoles),
            *("quiet", "panic=30", *request.arguments),
        )
    )


def _stack(sizes: Sequence[int]) -> tuple[list[int], int]:
    """Return where layers of these sizes begin in their partition, and its length."""
    offsets, end = [], 0
    for size in sizes:
        offsets.append(end)
        end += -(-size // _LAYER_ALIGNED) * _LAYER_ALIGNED
    return offsets, end


def _data_sectors(before: int, size: int) -> int:
    """Return the length of the writable partition on a disk of `size` bytes."""
    smallest = SMALLEST_DATA // SECTOR
    if not size:
        return smallest
    count = size // SECTOR // _ALIGNED * _ALIGNED - _ALIGNED - before
    if count < smallest:
        least = (before + smallest + _ALIGNED) // _ALIGNED
        raise UsageError(f"--size: this image's disk needs at least {least}M")
    return count


def _bios(boot: _Boot, line: bytes, program: pe.Program, content: int) -> bytes:
    """Return the loader's table and the real-mode part, which follows it."""
    kernel = boot.kernel
    real_mode = linux.real_mode(kernel, line, len(boot.initrd))
    protected = len(kernel.image) - kernel.setup
    at = content + (program.places[".linux"] + kernel.setup) // SECTOR
    initrd = content + program.places[".initrd"] // SECTOR
    pieces = [
        linux.Piece(_TABLE + 1, len(real_mode) // SECTOR, linux.SETUP_ADDRESS),
        linux.Piece(at, -(-protected // SECTOR), linux.KERNEL_ADDRESS),
        linux.Piece(initrd, -(-len(boot.initrd) // SECTOR), kernel.initrd_address),
    ]
    return linux.table(pieces) + real_mode


def _put(target: int, sector: int, content: bytes) -> None:
    view, at = memoryview(content), sector * SECTOR
    while view:
        done = os.pwrite(target, view, at)
        view, at = view[done:], at + done


def _copy(path: str, begin: int, size: int, target: int, at: int) -> None:
    with open(path, "rb") as stream:
        source = stream.fileno()
        while size:
            done = _copy_some(source, target, size, begin, at)
            if not done:
                raise ImageError(f"{path} is shorter than its image says")
            begin, at, size = begin + done, at + done, size - done


def _copy_some(source: int, target: int, size: int, begin: int, at: int) -> int:
    try:
        return os.copy_file_range(source, target, size, begin, at)
    except OSError as error:
        if error.errno not in (errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOSYS):
            raise
    return os.pwrite(target, os.pread(source, min(size, _MIB), begin), at)


def _format(tools: Kit, target: int, identity: uuid.UUID, offset: int, size: int) -> None:
    """Make an empty ext4 file system in a part of the file, one that can grow."""
    # fmt: off
    process.run(
        [
            tools.file(kit.MKE2FS), "-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0",
            "-O", _FEATURES, "-J", "size=16", "-L", "apppot-data", "-U", str(identity),
            "-E", f"offset={offset},hash_seed={identity},{_EXTENDED}",
            f"/proc/self/fd/{target}", f"{size // 1024}k",
        ],
        pass_fds=(target,),
        env=process.clean_environment(
            {"MKE2FS_CONFIG": "/dev/null", "E2FSPROGS_FAKE_TIME": _EPOCH}
        ),
    )
    # fmt: on
