"""What a virtual machine is asked to be: plain data, the same for every engine."""

from __future__ import annotations

from enum import StrEnum

from apppot.lean import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from apppot.agent.spec import GuestUser


class Network(StrEnum):
    """What the guest can reach."""

    USER = "user"
    NONE = "none"


class EngineName(StrEnum):
    """The ways to run a guest kernel; `auto` is the best one that works."""

    AUTO = "auto"
    UML = "uml"
    KVM = "kvm"
    TCG = "tcg"
    XEN = "xen"
    VIRTUALBOX = "virtualbox"


class UmlMode(StrEnum):
    """How User-Mode Linux catches the system calls of guest programs."""

    SECCOMP = "seccomp"
    PTRACE = "ptrace"


@dataclass(frozen=True)
class Share:
    """A host folder (or single file) that the guest sees."""

    source: str
    target: bytes
    read_only: bool = False


@dataclass(frozen=True)
class LayerFile:
    """A file system that is a layer: a file, or a part of one that begins at `offset` bytes."""

    path: str
    offset: int = 0
    type: str = ""  # "": EROFS
    size: int = 0  # bytes from `offset` on; 0: up to the end, which is enough for EROFS


@dataclass(frozen=True)
class Saving:
    """What a machine has that can be saved, and what a saved one goes on from."""

    cpu: str  # QEMU's words for the processor
    machine: str = "q35"  # QEMU's machine type, with its version once it is known
    memory: int | None = None  # the reading end of a pipe with the saved memory
    disk: int | None = None  # the saved scratch disk


@dataclass(frozen=True)
class MachineSpec:
    """One virtual machine. Sizes in bytes; `host_cpus` are the host's CPUs that it may use."""

    hostname: str
    layers: tuple[LayerFile, ...]  # the lowest first
    cpus: int
    host_cpus: tuple[int, ...]
    memory: int
    mode: UmlMode = UmlMode.SECCOMP
    write_layer: bool = False  # no overlay: the only layer is the root, and is written to
    scratch: int | None = None  # size of the disk; None: memory
    scratch_file: str = ""  # a disk that is kept after the machine's end, instead of a new one
    held: tuple[int, ...] = ()  # descriptors whose locks last as long as the machine
    shares: tuple[Share, ...] = ()
    network: Network = Network.USER
    host_loopback: bool = False
    user: GuestUser | None = None
    kernel_arguments: tuple[str, ...] = ()
    saving: Saving | None = None
