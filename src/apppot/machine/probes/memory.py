"""Probe what a UML machine's memory rests on: executable shared mappings, their number, limits."""

from __future__ import annotations

import ctypes
import mmap
import os
import tempfile

from apppot import paths, process
from apppot.errors import MachineError, ProcessError
from apppot.machine import limits
from apppot.machine.probes import system
from apppot.machine.probes.finding import Finding, Outcome

_DEADLINE = 5.0
_RETURN_42 = b"\xb8\x2a\x00\x00\x00\xc3"  # mov eax, 42; ret
_SMALL = 512 * limits.MIB
# With fewer mappings than this a guest that touches much memory in no order slows down.
_MANY_MAPPINGS = 262144


def exec_memory() -> Finding:
    """Run six bytes of code from a memfd, and from files in /dev/shm and the temporary folder."""
    scratch = paths.scratch_dir()
    problems = {
        "memfd": _try(_memfd),
        "/dev/shm": _try(lambda: _unlinked("/dev/shm")),  # noqa: S108  what UML itself uses
        scratch: _try(lambda: _unlinked(scratch)),
    }
    good = [place for place, problem in problems.items() if not problem]
    bad = [f"{place}: {problem}" for place, problem in problems.items() if problem]
    details = {"places": problems}
    found = "code runs from shared memory in " + ", ".join(good) if good else ""
    if bad:
        found = "; ".join(filter(None, (found, "not in " + "; ".join(bad))))
    if "memfd" in good:
        meaning = "the memory of UML machines is a memfd, which needs no folder"
        return Finding("exec-memory", Outcome.WORKS, found, meaning, "", details)
    if good:
        meaning = "UML machines keep their memory in a file instead of a memfd"
        advice = f"set TMPDIR={good[0]} if machines do not start"
        return Finding("exec-memory", Outcome.LIMITED, found, meaning, advice, details)
    meaning = "the engine uml cannot run: its memory must be shared and executable"
    advice = (
        "allow executable mappings (SELinux: execmem), or mount /dev/shm or a TMPDIR without noexec"
    )
    return Finding("exec-memory", Outcome.FAILS, found, meaning, advice, details)


def _try(open_file: object) -> str:
    """Return why code cannot run from the file that `open_file()` opens, or ""."""
    assert callable(open_file)

    def runs() -> int:
        descriptor = open_file()
        os.ftruncate(descriptor, mmap.PAGESIZE)
        everything = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
        area = mmap.mmap(descriptor, mmap.PAGESIZE, mmap.MAP_SHARED, everything)
        area[: len(_RETURN_42)] = _RETURN_42
        address = ctypes.addressof(ctypes.c_char.from_buffer(area))
        return int(ctypes.CFUNCTYPE(ctypes.c_int)(address)())

    try:
        result = process.in_child(runs, _DEADLINE)
    except ProcessError as error:
        return error.message
    return "" if result == 42 else f"the code returned {result}"  # noqa: PLR2004


def _memfd() -> int:
    return os.memfd_create("apppot-probe", os.MFD_CLOEXEC)


def _unlinked(folder: str) -> int:
    descriptor, path = tempfile.mkstemp(prefix="apppot-probe-", dir=folder)
    os.unlink(path)
    return descriptor


def mappings() -> Finding:
    """Read how many mappings a process may have."""
    number = system.number("/proc/sys/vm/max_map_count")
    if number is None:
        return Finding("mappings", Outcome.UNKNOWN, "vm.max_map_count cannot be read")
    found = f"vm.max_map_count is {number}"
    details = {"max_map_count": number}
    if number >= _MANY_MAPPINGS:
        meaning = "guests may touch their memory in any order"
        return Finding("mappings", Outcome.WORKS, found, meaning, "", details)
    meaning = (
        "every scattered piece of a guest's memory takes one; guest programs that touch gigabytes "
        "in no order are slower with so few"
    )
    advice = f"none needed; an administrator may set vm.max_map_count={_MANY_MAPPINGS * 4}"
    return Finding("mappings", Outcome.LIMITED, found, meaning, advice, details)


def memory() -> Finding:
    """Find the tightest limit on memory, and what it leaves for a machine."""
    every = limits.memory_limits()
    tightest = min(every, key=lambda limit: limit.bytes)
    details: dict[str, object] = {
        "limits": [{"bytes": limit.bytes, "source": limit.source} for limit in every]
    }
    found = f"{limits.show_size(tightest.bytes)} ({tightest.source})"
    try:
        automatic = limits.auto_memory(tightest)
    except MachineError as error:
        return Finding("memory", Outcome.FAILS, found, error.message, error.hint, details)
    details["auto"] = automatic
    meaning = f"'--memory auto' gives a machine {limits.show_size(automatic)}"
    if automatic < _SMALL:
        advice = "ask the scheduler for more memory if the payload needs it"
        return Finding("memory", Outcome.LIMITED, found, meaning, advice, details)
    return Finding("memory", Outcome.WORKS, found, meaning, "", details)
