"""Probe the two process modes of User-Mode Linux: seccomp and ptrace."""

from __future__ import annotations

import ctypes
import os
import signal
import struct

from apppot import kit as kits
from apppot import process
from apppot.errors import AppPotError, ProcessError
from apppot.machine.probes import boot, system
from apppot.machine.probes.finding import Finding, Outcome
from apppot.machine.probes.mode import Mode

_DEADLINE = 5.0
_PR_SET_NO_NEW_PRIVS = 38
_SET_MODE_FILTER = 1
_RET_TRAP = 0x00030000
_RET_ALLOW = 0x7FFF0000
_TRACEME, _KILL, _SYSEMU, _SETOPTIONS = 0, 8, 31, 0x4200
_O_TRACESYSGOOD = 1

_SECCOMP_ADVICE = (
    "leave the container or sandbox that forbids seccomp filters; "
    "without them AppPot uses ptrace, which is slower"
)
_PTRACE_ADVICE = (
    "none needed while the seccomp mode works; else allow ptrace of one's own processes "
    "(kernel.yama.ptrace_scope below 3, a container's SYS_PTRACE)"
)


def uml_seccomp(*, quick: bool = False) -> Finding:
    """Install a trapping filter; then boot a kernel that runs its processes under one."""
    return _probe("uml-seccomp", Mode.SECCOMP, seccomp_error(), _SECCOMP_ADVICE, quick=quick)


def uml_ptrace(*, quick: bool = False) -> Finding:
    """Trace a child's system call; then boot a kernel that traces its processes."""
    return _probe("uml-ptrace", Mode.PTRACE, ptrace_error(), _PTRACE_ADVICE, quick=quick)


def _probe(name: str, mode: Mode, problem: str, advice: str, *, quick: bool) -> Finding:
    details: dict[str, object] = {"call": problem or "works"}
    meaning = {
        Mode.SECCOMP: "the fast mode of the engine uml, and the one with several CPUs",
        Mode.PTRACE: "the engine uml can run in its slower mode, with one CPU",
    }[mode]
    without = f"the engine uml cannot use its {mode} mode"
    if quick:
        if problem:
            return Finding(name, Outcome.FAILS, problem, without, advice, details)
        return Finding(
            name,
            Outcome.WORKS,
            "the system calls for it work (no boot tried)",
            meaning,
            "",
            details,
        )
    try:
        done = boot.boot(kits.find(), mode)
    except AppPotError as error:
        said = problem or f"the system calls for it work, but not a boot: {error.message}"
        outcome = Outcome.FAILS if problem else Outcome.UNKNOWN
        return Finding(name, outcome, said, without, advice if problem else error.hint, details)
    details |= {"seconds": round(done.seconds, 3), "console": done.console}
    if done.ok:
        found = f"a kernel booted; its agent said {done.why}"
        return Finding(name, Outcome.WORKS, found, meaning, "", details)
    found = f"{problem}; " if problem else ""
    advice = advice if problem else "see the console with --json, and the other lines of this table"
    return Finding(name, Outcome.FAILS, found + done.why, without, advice, details)


def seccomp_error() -> str:
    """Return why a trapping seccomp filter cannot be had, or ""."""
    try:
        process.in_child(_trapped, _DEADLINE)
    except ProcessError as error:
        if error.returncode == -signal.SIGSYS:
            return ""
        return f"seccomp filter: {error.message}"
    return "a seccomp filter was accepted but does not trap"


def _trapped() -> None:
    """Forbid getppid() with a trap, and call it: the kernel must send SIGSYS."""
    libc = system.libc()
    signal.signal(signal.SIGSYS, signal.SIG_DFL)
    stack = ctypes.create_string_buffer(65536)
    record = struct.pack("QixxxxQ", ctypes.addressof(stack), 0, len(stack))
    system.checked(libc.sigaltstack(record, None))
    statements = (
        (0x20, 0, 0, 0),  # load the number of the call
        (0x15, 0, 1, system.SYS_GETPPID),  # jump if equal
        (0x06, 0, 0, _RET_TRAP),
        (0x06, 0, 0, _RET_ALLOW),
    )
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in statements))
    program = struct.pack("HxxxxxxQ", len(statements), ctypes.addressof(code))
    system.checked(libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    system.syscall(system.SYS_SECCOMP, _SET_MODE_FILTER, 0, program)
    system.syscall(system.SYS_GETPPID)


def ptrace_error() -> str:
    """Return why a child's system calls cannot be traced and changed, or ""."""
    try:
        process.in_child(_traced, _DEADLINE)
    except ProcessError as error:
        return f"ptrace: {error.message}"
    return ""


def _traced() -> None:
    """Trace a child of the child up to a system call that is stopped before it is made."""
    libc = system.libc()
    pid = os.fork()
    if pid == 0:
        failed = libc.ptrace(_TRACEME, 0, None, None) == -1
        if failed:
            os._exit(ctypes.get_errno())
        os.kill(os.getpid(), signal.SIGSTOP)
        os.getppid()
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if os.WIFEXITED(status):
        code = os.WEXITSTATUS(status)
        raise OSError(code, f"PTRACE_TRACEME: {os.strerror(code)}")
    if not os.WIFSTOPPED(status):
        raise OSError(0, f"the traced child ended with {os.waitstatus_to_exitcode(status)}")
    try:
        nothing, good = ctypes.c_void_p(0), ctypes.c_void_p(_O_TRACESYSGOOD)
        system.checked(libc.ptrace(_SETOPTIONS, pid, nothing, good))
        system.checked(libc.ptrace(_SYSEMU, pid, nothing, nothing))
        _, status = os.waitpid(pid, 0)
        if not os.WIFSTOPPED(status) or os.WSTOPSIG(status) != signal.SIGTRAP | 0x80:
            raise OSError(0, "no stop at the child's system call")
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
