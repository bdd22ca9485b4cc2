"""Folders that QEMU's machines share: by virtiofsd where it is installed, else by QEMU as 9p."""

from __future__ import annotations

import os

from apppot.agent.spec import GuestShare
from apppot.lean import TYPE_CHECKING, dataclass, replace
from apppot.machine import confined, virtiofs
from apppot.machine.engine import FIRST

if TYPE_CHECKING:
    from collections.abc import Iterator

    from apppot.machine.engine import Hand
    from apppot.machine.model import MachineSpec, Share

_9P = "trans=virtio,version=9p2000.L,msize=512000,cache=mmap,posixacl"


@dataclass(frozen=True)
class Folder:
    """A shared folder's descriptor, and what is shared of it: all, or the file `name`."""

    number: int
    file: int | None = None  # the descriptor of the file, which alone may be reached
    name: bytes = b""
    server: int | None = None  # the connection to the process that serves it; None: QEMU does


def give(hand: Hand, share: Share) -> Folder:
    """Open what is shared; a file is shared through its folder, of which nothing else is seen.

    Raises MachineError.
    """
    number = hand.open(share.source, os.O_PATH, "the shared folder")
    if not hand.single_file(number):
        return Folder(number)
    folder, name = os.path.split(os.fsencode(share.source))
    above = hand.open(os.fsdecode(folder), os.O_PATH | os.O_DIRECTORY, "the folder of")
    return Folder(above, number, name)


def rights(share: Share, folder: Folder) -> list[str]:
    """Return the words that let a confined process serve what is shared, and no more."""
    kind = "--ro-fd" if share.read_only else "--rw-fd"
    if folder.file is None:
        return [kind, str(folder.number)]
    return ["--list-fd", str(folder.number), kind, str(folder.file)]


def serve(
    confine: str,
    spec: MachineSpec,
    folders: tuple[Folder, ...],
    sockets: str,
    standard: dict[int, int],
    hand: Hand,
    *,
    translated: bool,
) -> tuple[tuple[Folder, ...], tuple[int, ...]]:
    """Start a server for each folder if the host has one; return them with the processes' ids.

    `sockets` is a folder that only its user can enter; `standard` has their first descriptors.
    """
    program = virtiofs.program(translated=translated) if folders else None
    if program is None:
        return folders, ()
    served, processes = [], []
    for share, folder in zip(spec.shares, folders, strict=True):
        if not virtiofs.serves(share.source):
            served.append(folder)
            continue
        files = {**standard, FIRST + 1: hand.map[folder.number]}
        own = Folder(FIRST + 1)
        if folder.file is not None:
            own = Folder(FIRST + 1, FIRST + 2)
            files[FIRST + 2] = hand.map[folder.file]
        words = [
            *confined.words(confine, program, spec.host_cpus),
            *rights(share, own),
            "--",
            *virtiofs.arguments(program, FIRST, own.number, read_only=share.read_only),
        ]
        process, connection = virtiofs.start(words, sockets, files)
        processes.append(process)
        served.append(replace(folder, server=hand.give(connection)))
    return tuple(served), tuple(processes)


def backends(shares: tuple[Share, ...], folders: tuple[Folder, ...]) -> Iterator[str]:
    """Yield QEMU's options for the host's side of the folders."""
    for n, (share, folder) in enumerate(zip(shares, folders, strict=True)):
        if folder.server is not None:
            yield from ("-chardev", f"socket,id=share{n},fd={folder.server}")
            continue
        mode = "on" if share.read_only else "off"
        yield "-fsdev"
        yield (
            f"local,id=share{n},path=/proc/self/fd/{folder.number},security_model=none,"
            f"multidevs=remap,readonly={mode}"
        )


def devices(folders: tuple[Folder, ...]) -> Iterator[str]:
    """Yield the devices that the guest mounts."""
    for n, folder in enumerate(folders):
        if folder.server is None:
            yield f"virtio-9p-pci-non-transitional,fsdev=share{n},mount_tag=share{n}"
        else:
            yield f"vhost-user-fs-pci,chardev=share{n},tag=share{n},queue-size=1024"


def memory(size: int, folders: tuple[Folder, ...]) -> str:
    """Return what -object says of the guest's memory (bytes), if servers must share it."""
    if all(folder.server is None for folder in folders):
        return ""
    return f"memory-backend-memfd,id=memory,size={size >> 10}k,share=on"


def guest_shares(shares: tuple[Share, ...], folders: tuple[Folder, ...]) -> tuple[GuestShare, ...]:
    """Return what the agent is asked to mount."""
    return tuple(
        GuestShare(
            "9p" if folder.server is None else "virtiofs",
            f"share{n}",
            share.target,
            _9P if folder.server is None else "",
            share.read_only,
            single_file=folder.file is not None,
            part=folder.name,
        )
        for n, (share, folder) in enumerate(zip(shares, folders, strict=True))
    )
