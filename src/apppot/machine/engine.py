"""What every engine offers: start a machine from its description, hold it, end it."""

from __future__ import annotations

import os
import signal
import stat
import time
from abc import ABC, abstractmethod

from apppot.errors import MachineError
from apppot.lean import TYPE_CHECKING, dataclass, field

if TYPE_CHECKING:
    from contextlib import ExitStack

    from apppot.agent.spec import GuestSpec
    from apppot.machine.model import MachineSpec
    from apppot.machine.rundir import RunDir

CONSOLE_TAIL = 8192
FIRST = 3  # the first descriptor that is ours to give; 0 to 2 are the machine's own console


@dataclass(frozen=True)
class ProcessEnd:
    """How the machine's main process ended; times in seconds, memory in bytes."""

    status: int  # as os.waitstatus_to_exitcode: negative for a signal
    cpu_time: float
    peak_memory: int


@dataclass
class Machine:
    """A machine that has been started: its processes, its channel, and what its guest is told."""

    pid: int
    channel: int
    guest: GuestSpec
    run: RunDir
    console: str
    helpers: dict[int, str] = field(default_factory=dict)
    end: ProcessEnd | None = None
    has_clock: bool = True  # the guest's clock is the host's
    monitor: int | None = None  # what a machine that can be saved is asked by, and
    scratch: int | None = None  # its disk; both are closed with the machine's stack
    launched: float = field(default_factory=time.monotonic)

    def kill(self) -> None:
        """End the machine and its helpers at once, and reap them."""
        if self.end is None:
            os.kill(self.pid, signal.SIGKILL)
            self.reap()
        for pid in list(self.helpers):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            del self.helpers[pid]

    def reap(self) -> ProcessEnd:
        """Wait for the main process to end; immediate if it has ended."""
        if self.end is None:
            _, status, usage = os.wait4(self.pid, 0)
            self.end = ProcessEnd(
                status=os.waitstatus_to_exitcode(status),
                cpu_time=usage.ru_utime + usage.ru_stime,
                peak_memory=usage.ru_maxrss * 1024,
            )
        return self.end

    def console_tail(self) -> str:
        """Return the last part of what the guest's kernel said."""
        try:
            with open(self.console, "rb") as file:
                size = file.seek(0, os.SEEK_END)
                file.seek(max(0, size - CONSOLE_TAIL))
                return file.read().decode("utf-8", "replace").replace("\r", "")
        except OSError:
            return ""


class Engine(ABC):
    """A way to run a guest kernel."""

    name: str

    @abstractmethod
    def start(self, spec: MachineSpec, run: RunDir, stack: ExitStack) -> Machine:
        """Start a machine; `stack` gets whatever must be undone at its end.

        Raises MachineError if it cannot be started.
        """

    @abstractmethod
    def explain(self, machine: Machine) -> MachineError:
        """Return why a machine died before its time, from its end and its console."""


class Hand:
    """Open what the machine needs, and number it as its process will see it."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.map: dict[int, int] = {}

    def give(self, descriptor: int) -> int:
        """Return the child's number for a descriptor, which this process closes later."""
        self._stack.callback(os.close, descriptor)
        number = FIRST + len(self.map)
        self.map[number] = descriptor
        return number

    def open(self, path: str, flags: int, what: str) -> int:
        """Open a path and give it; raises MachineError."""
        try:
            return self.give(os.open(path, flags | os.O_CLOEXEC))
        except OSError as error:
            raise MachineError(
                f"cannot open {what} {path}: {error.strerror}",
                hint="check its permissions" if isinstance(error, PermissionError) else "",
            ) from error

    def single_file(self, number: int) -> bool:
        """Tell whether a descriptor is of something else than a folder."""
        return not stat.S_ISDIR(os.fstat(self.map[number]).st_mode)
