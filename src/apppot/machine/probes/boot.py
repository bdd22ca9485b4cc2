"""Boot the kit's UML kernel with the agent alone, and see whether it says hello."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from apppot.machine.limits import MINIMUM_MEMORY, allowed_cpus
from apppot.machine.model import MachineSpec, Network, UmlMode
from apppot.machine.rundir import RunDir
from apppot.machine.uml import UmlEngine

if TYPE_CHECKING:
    from apppot.kit import Kit
    from apppot.machine.engine import Engine
    from apppot.machine.probes.mode import Mode
    from apppot.machine.qemu import Accelerator

MAGIC = b"APPPOT\0\1"
DEADLINE = 10.0
_PC_MEMORY = 256 << 20
_NOISE = re.compile(
    r"^\s*$|^\s*\[<|^Stack:|^Call Trace|^\s*[0-9a-f]{8} |^R[A-Z0-9]{1,2}:|^EFLAGS"
    r"|^(Core dump limits|\s+soft -|\s+hard -)|\.\.\.\s*(OK|none found)$"
)


@dataclass(frozen=True)
class Boot:
    """One try: how long until the agent said hello, or why it did not."""

    mode: Mode | None
    ok: bool
    seconds: float
    why: str
    timed_out: bool = False
    console: str = ""


def boot(kit: Kit, mode: Mode, *, deadline: float = DEADLINE) -> Boot:
    """Boot User-Mode Linux as a run does, without an image; nothing is left behind."""
    return _boot(UmlEngine(kit), mode, MINIMUM_MEMORY, deadline)


def boot_pc(kit: Kit, accelerator: Accelerator, *, deadline: float) -> Boot:
    """Boot the kit's PC kernel under QEMU in the same way."""
    from apppot.machine.qemu import QemuEngine

    return _boot(QemuEngine(accelerator, kit), None, _PC_MEMORY, deadline)


def _boot(engine: Engine, mode: Mode | None, memory: int, deadline: float) -> Boot:
    spec = MachineSpec(
        hostname="probe",
        layers=(),
        cpus=1,
        host_cpus=allowed_cpus(),
        memory=memory,
        mode=UmlMode(mode) if mode else UmlMode.SECCOMP,
        network=Network.NONE,
    )
    begin = time.monotonic()
    with contextlib.ExitStack() as stack:
        machine = engine.start(spec, stack.enter_context(RunDir.make()), stack)
        channel = stack.enter_context(socket.socket(fileno=machine.channel))
        ok = _says_hello(channel, begin + deadline)
        seconds = time.monotonic() - begin
        timed_out = not ok and seconds >= deadline
        if not ok and not timed_out:
            _wait(machine.pid, 2.0)
        machine.kill()
        status, text = machine.reap().status, machine.console_tail()
    why = f"hello after {seconds:.2f} s" if ok else _why(text, status, seconds, timed_out=timed_out)
    return Boot(mode, ok, seconds, why, timed_out, "" if ok else text[-4096:])


def _says_hello(channel: socket.socket, end: float) -> bool:
    """Return whether the magic arrives before `end`; what comes before it is thrown away."""
    seen = b""
    while MAGIC not in seen:
        left = end - time.monotonic()
        if left <= 0:
            return False
        channel.settimeout(left)
        try:
            piece = channel.recv(4096)
        except OSError:
            return False
        if not piece:
            return False
        seen = seen[-len(MAGIC) :] + piece
    return True


def _wait(pid: int, patience: float) -> None:
    """Wait for a process's end, so that its own status is known and not that of a kill."""
    descriptor = os.pidfd_open(pid)
    try:
        select.select([descriptor], [], [], patience)
    finally:
        os.close(descriptor)


def signal_name(number: int) -> str:
    """Return SIGTERM for 15, and so on."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _why(console: str, status: int, seconds: float, *, timed_out: bool) -> str:
    """Return the most telling of the kernel's last words."""
    lines = [line.strip() for line in console.splitlines() if not _NOISE.search(line)]
    panics = [line for line in lines if "panic" in line.lower()]
    last = panics[0] if panics else " / ".join(lines[-2:])
    if timed_out:
        how = f"no hello within {seconds:.0f} s"
    elif status < 0:
        how = f"the kernel was killed by {signal_name(-status)}"
    else:
        how = f"the kernel ended with status {status}"
    return f"{how}; it said: {last[-300:]}" if last else f"{how} without a word"
