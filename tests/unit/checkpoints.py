"""A manifest of a checkpoint, for tests without a machine."""

from __future__ import annotations

from apppot.agent.spec import CommandSpec, GuestUser, Terminal
from apppot.agent.standstill import Conversation, Output, Relay
from apppot.checkpoint.manifest import Blob, Disk, Folders, Habits, Hardware, Manifest, SavedImage
from apppot.machine.cpumodel import CpuModel
from apppot.machine.model import EngineName, Network

HARDWARE = Hardware(
    engine=EngineName.KVM,
    hostname="node",
    cpus=2,
    memory=512 << 20,
    scratch=1 << 30,
    network=Network.USER,
    host_loopback=False,
    kernel_arguments=("quiet",),
    user=GuestUser(1000, 1000, "me", "/home/me"),
    cpu_model=CpuModel.V3,
    vendor="GenuineIntel",
    qemu="8.2.1",
    machine_type="pc-q35-8.2",
    layout="0" * 64,
    kernel="1" * 64,
    agent="2" * 64,
)


def saved(
    memory: Blob,
    disk: Disk | None = None,
    held: bytes = b"",
    pending: bytes = b"",
    text: bytes = b"x",
    folders: Folders | None = None,
) -> Manifest:
    relay = Relay(3, 1.5, 100, {1: Output(pending, False), 2: Output(b"", True)})
    return Manifest(
        apppot="1",
        host="here",
        saved=1.0,
        image=SavedImage("name:tag", "sha256:" + "3" * 64, (Blob("sha256:" + "4" * 64, 5),)),
        hardware=HARDWARE,
        command=CommandSpec((text,), (b"A=" + text,), b"/", 1, 2, (3,), Terminal(10, 20)),
        habits=Habits(20.0, 10),
        conversation=Conversation({1: held}, {}, 4, relay, held),
        memory=memory,
        disk=disk,
        folders=folders,
    )
