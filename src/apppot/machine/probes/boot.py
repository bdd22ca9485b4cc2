"""Boot the kit's UML kernel with the agent alone, and see whether it says hello."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import tempfile
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from apppot import process
from apppot.errors import AppPotError
from apppot.machine.rundir import RunDir

if TYPE_CHECKING:
    from collections.abc import Iterator

    from apppot.kit import Kit
    from apppot.machine.probes.mode import Mode

MAGIC = b"APPPOT\0\1"
DEADLINE = 10.0
_CHANNEL = 8
_NOISE = re.compile(
    r"^\s*$|^\s*\[<|^Stack:|^Call Trace|^\s*[0-9a-f]{8} |^R[A-Z0-9]{1,2}:|^EFLAGS"
    r"|^(Core dump limits|\s+soft -|\s+hard -)|\.\.\.\s*(OK|none found)$"
)


@dataclass(frozen=True)
class Boot:
    """One try: how long until the agent said hello, or why it did not."""

    mode: Mode
    ok: bool
    seconds: float
    why: str
    timed_out: bool = False
    console: str = ""


def command(linux: str, mode: Mode, agent: str, folder: str) -> list[str]:
    """Return the command line that boots the agent and nothing else."""
    return [
        linux,
        "mem=64M",
        "seccomp=on" if mode == "seccomp" else "seccomp=off",
        f"uml_dir={folder}/",
        f"initrd={agent}",
        "con=none",
        "con0=null,fd:1",
        f"con1=fd:{_CHANNEL},fd:{_CHANNEL}",
    ]


def boot(kit: Kit, mode: Mode, *, deadline: float = DEADLINE) -> Boot:
    """Boot in `mode` and power off again; nothing is left behind."""
    begin = time.monotonic()
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(_folder())
        ours, theirs = socket.socketpair()
        stack.enter_context(ours)
        console = stack.enter_context(open(os.path.join(folder, "console"), "w+b"))
        null = stack.enter_context(open(os.devnull, "rb"))
        with theirs:
            argv = command(kit.file("bin/linux"), mode, kit.file("boot/agent.cpio"), folder)
            pid = process.spawn(
                argv,
                descriptors={
                    0: null.fileno(),
                    1: console.fileno(),
                    2: console.fileno(),
                    _CHANNEL: theirs.fileno(),
                },
            )
        ok = _says_hello(ours, begin + deadline)
        seconds = time.monotonic() - begin
        with contextlib.suppress(OSError):
            # Only our sending side: the agent then powers off, while its own writes still pass.
            ours.shutdown(socket.SHUT_WR)
        status = _end(pid, 2.0 if seconds < deadline else 0.0)
        console.seek(0)
        text = console.read(65536).decode("utf-8", "replace")
    timed_out = not ok and seconds >= deadline
    why = f"hello after {seconds:.2f} s" if ok else _why(text, status, seconds, timed_out=timed_out)
    return Boot(mode, ok, seconds, why, timed_out, "" if ok else text[-4096:])


@contextlib.contextmanager
def _folder() -> Iterator[str]:
    """Make a folder that the next run removes if this one is killed."""
    try:
        run = RunDir.make()
    except AppPotError:
        with tempfile.TemporaryDirectory(prefix="apppot-probe-") as path:
            yield path
        return
    with run:
        yield run.path


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


def _end(pid: int, patience: float) -> int:
    """Reap the kernel, by force if it does not power off in time; return its status."""
    end = time.monotonic() + patience
    while True:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        if time.monotonic() >= end:
            os.kill(pid, signal.SIGKILL)
            _, status = os.waitpid(pid, 0)
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)


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
