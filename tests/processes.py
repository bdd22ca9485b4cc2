"""Look at the host's processes: which live below the tests, and what they are."""

from __future__ import annotations

import contextlib
import ctypes
import os
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_SET_CHILD_SUBREAPER = 36


class _Process(NamedTuple):
    parent: int
    state: str
    threads: int

    @property
    def lives(self) -> bool:
        """A first thread that has ended is a zombie as long as there are others."""
        return self.state not in "ZX" or self.threads > 1


def become_subreaper(*, on: bool = True) -> None:
    """Inherit what launchers leave when they die, so that `descendants` sees it.

    Who orphans its own helpers, and waits for their end, waits for ever for one that is inherited.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(_SET_CHILD_SUBREAPER, int(on), 0, 0, 0) == 0


def children(pid: int) -> list[int]:
    """Return a process's children that are alive."""
    return [child for child, seen in _processes().items() if seen.parent == pid and seen.lives]


def descendants(others: Sequence[int] = ()) -> list[int]:
    """Return every living process below this one, but not `others` and what is below them."""
    seen = _processes()
    _reap(pid for pid, found in seen.items() if found.parent == os.getpid() and not found.lives)
    below = {os.getpid()}
    while new := {
        pid
        for pid, found in seen.items()
        if found.parent in below and pid not in below and pid not in others
    }:
        below |= new
    return sorted(pid for pid in below - {os.getpid()} if seen[pid].lives)


def _reap(dead: Iterable[int]) -> None:
    """Take the statuses of orphans; Popen objects have their own by now."""
    for pid in dead:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, os.WNOHANG)


def _processes() -> dict[int, _Process]:
    """Return every process; read again where a parent has ended meanwhile."""
    unknown: set[int] | None = None
    while True:
        found = dict(_read())
        before, unknown = unknown, {seen.parent for seen in found.values()} - found.keys()
        if unknown in (before, {0}):  # nobody's, or of somebody whom /proc does not show
            return found


def _read() -> Iterator[tuple[int, _Process]]:
    for name in os.listdir("/proc"):
        if name.isdecimal():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat", "rb") as file:
                words = file.read().rpartition(b")")[2].split()  # proc(5): from the third on
                yield int(name), _Process(int(words[1]), words[0].decode(), int(words[17]))


def command_of(pid: int) -> list[bytes]:
    """Return a process's words, or its name in brackets if it has none."""
    for name in ("cmdline", "comm"):
        with contextlib.suppress(OSError), open(f"/proc/{pid}/{name}", "rb") as file:
            words = file.read().rstrip(b"\0\n").split(b"\0")
            if words != [b""]:
                return words if name == "cmdline" else [b"[%s]" % words[0]]
    return [b"?"]


def memory_of(pid: int) -> int:
    """Return a process's resident memory in bytes."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
