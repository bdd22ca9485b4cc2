"""What a run is asked for: by `apppot run`, by builds, by what works inside machines."""

from __future__ import annotations

import signal

from apppot.lean import TYPE_CHECKING, dataclass
from apppot.machine.model import EngineName, Network, Share, UmlMode

if TYPE_CHECKING:
    from collections.abc import Callable

    from apppot.agent.preparing import Preparation, Preparer
    from apppot.agent.session import Session
    from apppot.capturing import Capture
    from apppot.identity import Identity
    from apppot.machine.cpumodel import CpuModel


@dataclass(frozen=True)
class Checkpoint:
    """The machine can be saved: the folder, and the signal that asks for it and ends the run."""

    folder: str
    signal: int | None = None
    cpu_model: CpuModel | None = None  # None: the best that this host has


@dataclass(frozen=True)
class RunRequest:
    """What `apppot run` was asked for. Sizes in bytes, times in seconds, None: the default."""

    image: str
    command: tuple[bytes, ...] = ()
    entrypoint: tuple[bytes, ...] | None = None  # goes before it; None: the image's
    cpus: int = 1
    memory: int | None = None  # None: as much as is allowed ("auto")
    scratch: int | None = None
    job_dir: str | None = "."
    binds: tuple[Share, ...] = ()
    environment: tuple[bytes, ...] = ()
    network: Network = Network.USER
    host_loopback: bool = False
    user: str = ""  # "": the caller; "root"; NAME; UID[:GID]
    image_user: str = ""  # instead of it: USER[:GROUP] that the agent looks up in the image
    workdir: bytes = b""
    hostname: str = "apppot"
    time_limit: float | None = None
    grace: float = 20.0
    ending: tuple[int, ...] = (signal.SIGTERM,)  # these end the payload, by force after the grace
    terminal: bool = False
    verbose: bool = False
    engine: EngineName | None = None  # None: by the setting run.engine
    mode: UmlMode | None = None
    kernel_arguments: tuple[str, ...] = ()
    stdio: tuple[int, int, int] = (0, 1, 2)
    builtin: bytes = b""  # of the agent's, instead of a program of the image's; see worker.py
    capture: Capture | None = None
    write: bool = False  # the image is a raw disk, which is written to
    partition: int | None = None  # of a raw disk; None: the one with the root
    scratch_file: str = ""  # a disk that keeps the changes, instead of `scratch`
    changes: tuple[str, ...] = ()  # files of changes, stacked on the image
    held: tuple[int, ...] = ()  # descriptors whose locks last as long as the machine
    before: tuple[Preparation, ...] = ()
    serving: Callable[[Session], Preparer] | None = None  # instead; not in the main thread
    who: Identity | None = None  # goes before `user`
    checkpoint: Checkpoint | None = None
    stage: bool = False  # shared folders are copied in and changes out, on every engine
