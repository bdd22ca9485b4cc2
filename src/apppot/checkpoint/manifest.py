"""What a checkpoint's folder says of itself: its manifest, checked when it is read."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from typing import BinaryIO

from apppot.agent.spec import CommandSpec, GuestUser  # noqa: TC001  read at run time
from apppot.agent.standstill import Conversation  # noqa: TC001  read at run time
from apppot.checkpoint.plain import made, plain
from apppot.errors import MachineError, UsageError
from apppot.machine.cpumodel import CpuModel  # noqa: TC001  read at run time
from apppot.machine.model import EngineName, Network, Share

FORMAT = 2
NAME = "checkpoint.json"
ENGINES = (EngineName.KVM, EngineName.TCG)  # whose machines can be saved


@dataclass(frozen=True)
class Blob:
    """A file of the folder, or of a store: its name or digest, and its size in bytes."""

    name: str
    size: int


@dataclass(frozen=True)
class Disk(Blob):
    """A disk in the folder, by whose digest (apppot.checkpoint.sums) damage to it is found."""

    sha256: str


@dataclass(frozen=True)
class SavedImage:
    """The image under the machine; its layers are in stores, by their digests."""

    name: str
    digest: str
    layers: tuple[Blob, ...]


@dataclass(frozen=True)
class Hardware:
    """The machine: what has to be the same where it goes on."""

    engine: EngineName
    hostname: str
    cpus: int
    memory: int
    scratch: int | None
    network: Network
    host_loopback: bool
    kernel_arguments: tuple[str, ...]
    user: GuestUser | None
    cpu_model: CpuModel
    vendor: str  # of the processor, under kvm; "": any
    qemu: str  # its version
    machine_type: str
    layout: str  # a digest of the devices and their places
    kernel: str  # digests of what the kit had when the machine was started
    agent: str


@dataclass(frozen=True)
class Habits:
    """How the run treats its payload; a restored one does the same unless it is told otherwise."""

    grace: float
    signal: int | None  # that asks for a checkpoint


@dataclass(frozen=True)
class Folders:
    """Folders that were brought into the machine as its highest layer; changes go back to them."""

    shares: tuple[Share, ...]
    layer: Disk


@dataclass(frozen=True)
class Manifest:
    """All of checkpoint.json but its format's number."""

    apppot: str
    host: str
    saved: float  # seconds since 1970
    image: SavedImage
    hardware: Hardware
    command: CommandSpec
    habits: Habits
    conversation: Conversation
    memory: Blob
    disk: Disk | None
    folders: Folders | None

    @property
    def blobs(self) -> list[Blob]:
        """The files in the checkpoint's folder."""
        layer = self.folders.layer if self.folders else None
        return [blob for blob in (self.memory, self.disk, layer) if blob]


def render(manifest: Manifest) -> bytes:
    """Return the text of checkpoint.json."""
    return json.dumps({"format": FORMAT, **plain(manifest)}, indent=1).encode() + b"\n"


def parse(data: bytes, where: str) -> Manifest:
    """Return the manifest in `data`; raises MachineError if it is damaged, or of another format."""
    try:
        return _parsed(json.loads(data), where)
    except (ValueError, AttributeError, KeyError, TypeError) as error:
        raise MachineError(f"the checkpoint in {where} is damaged: {NAME}: {error}") from error


def _parsed(content: object, where: str) -> Manifest:
    if not isinstance(content, dict):
        raise ValueError("it is no object")  # noqa: TRY004  one error for all of it
    found = content.pop("format")
    if found != FORMAT:
        raise MachineError(
            f"the checkpoint in {where} is of format {found}, and this AppPot knows {FORMAT}",
            hint="restore it with the version of AppPot that has made it",
        )
    manifest = made(Manifest, content)
    if manifest.hardware.engine not in ENGINES:
        raise ValueError(f"no machine of the engine {manifest.hardware.engine} can be saved")
    return manifest


def none(folder: str, error: OSError) -> UsageError:
    """Return the error for a folder that holds no checkpoint."""
    return UsageError(
        f"{folder} holds no checkpoint: {error.strerror}",
        hint="'apppot run --checkpoint-dir DIR' and 'apppot checkpoint ID' make one",
    )


def read(folder: str) -> Manifest:
    """Return the manifest of a folder whose files are all there.

    Raises UsageError if it holds no checkpoint, MachineError if it is damaged.
    """
    path = os.path.join(folder, NAME)
    try:
        with open(path, "rb") as file:
            data = file.read()
    except OSError as error:
        raise none(folder, error) from error
    manifest = parse(data, folder)
    for blob in manifest.blobs:
        _check(folder, blob)
    return manifest


def damage(folder: str, blob: Blob, found: str) -> MachineError:
    """Return the error for a file that is not as it was written."""
    return MachineError(
        f"the checkpoint in {folder} is damaged: {blob.name}: {found}",
        hint="was it copied wholly?",
    )


def opened(folder: str, blob: Blob) -> BinaryIO:
    """Open a file of the folder; raises MachineError."""
    try:
        return open(os.path.join(folder, blob.name), "rb")
    except OSError as error:
        raise damage(folder, blob, error.strerror or "") from error


def _check(folder: str, blob: Blob) -> None:
    path = os.path.join(folder, blob.name)
    if os.path.basename(blob.name) != blob.name:
        raise MachineError(f"the checkpoint in {folder} is damaged: it names a file {blob.name}")
    try:
        size = os.stat(path).st_size
    except OSError as error:
        raise damage(folder, blob, error.strerror or "") from error
    if size != blob.size:
        raise damage(folder, blob, f"{size} bytes, not {blob.size}")
