"""Which of the host's CPUs a machine runs on: few enough that system calls stay cheap.

A User-Mode Linux kernel and the process that runs guest code wake each other for each guest
system call. On one CPU that is a context switch (4 us); across CPUs it is a wake-up of an idle
CPU each way (64 us). So a machine is pinned; if it has one virtual CPU, it is moved when the host's
turns out to be taken.
"""

from __future__ import annotations

import os

from apppot.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from apppot.agent.loop import Loop

BALANCE = "balance"  # the timer's name
INTERVAL = 2.0  # seconds between looks
CROWDED = 0.25  # share of an interval spent waiting for a CPU that makes a move worthwhile
IDLE = 0.5  # share of an interval that another CPU must have been idle to move there


def choose(allowed: Sequence[int], count: int) -> tuple[int, ...]:
    """Return `count` of the allowed CPUs (all, if there are fewer), spread at random.

    At random, because machines that start at the same moment on a node must not all take the
    first CPU, and because nobody can see what the others are about to take.
    """
    left = list(allowed)
    while len(left) > count:
        left.pop(int.from_bytes(os.urandom(4), "little") % len(left))
    return tuple(left)


def least_busy(
    allowed: Sequence[int], count: int, before: dict[int, int], after: dict[int, int], ticks: float
) -> tuple[int, ...] | None:
    """Return CPUs that were idle between two looks, or None if there are too few.

    `before` and `after` are idle ticks by CPU, `ticks` the length of the interval.
    """
    idle = {cpu: after.get(cpu, 0) - before.get(cpu, 0) for cpu in allowed}
    best = sorted(allowed, key=lambda cpu: -idle[cpu])[:count]
    if len(best) < count or any(idle[cpu] < IDLE * ticks for cpu in best):
        return None
    return tuple(sorted(best))


def idle_ticks(text: str) -> dict[int, int]:
    """Return each CPU's idle ticks from the text of /proc/stat (proc(5))."""
    found = {}
    for line in text.splitlines():
        words = line.split()
        if words and words[0].startswith("cpu") and words[0][3:].isdigit():
            found[int(words[0][3:])] = int(words[4]) + int(words[5])
    return found


class Balancer:
    """Move a pinned machine away from CPUs that others use, while the machine runs."""

    def __init__(self, pid: int, allowed: Sequence[int], count: int) -> None:
        self._pid = pid
        self._allowed = tuple(allowed)
        self._count = count
        self._waited = self._waiting_time()
        self._idle = self._idle_now()

    @property
    def useful(self) -> bool:
        """Whether there is anywhere to move to.

        Several virtual CPUs stay where they are: the guest's kernel gives each one a CPU of the
        host, on which it keeps the processes that it runs.
        """
        return self._count == 1 < len(self._allowed)

    def look(self) -> None:
        """Compare with the last look, and move the machine if that helps."""
        waited, idle = self._waiting_time(), self._idle_now()
        share = (waited - self._waited) / (INTERVAL * 1e9)
        if share > CROWDED:
            ticks = INTERVAL * os.sysconf("SC_CLK_TCK")
            target = least_busy(self._allowed, self._count, self._idle, idle, ticks)
            if target:
                self._move(target)
        self._waited, self._idle = waited, idle

    def _processes(self) -> list[int]:
        """Return the machine's threads and the processes that run its programs."""
        found = []
        try:
            for task in os.listdir(f"/proc/{self._pid}/task"):
                found.append(int(task))
                with open(f"/proc/{self._pid}/task/{task}/children", encoding="ascii") as file:
                    found.extend(map(int, file.read().split()))
        except OSError:
            pass  # the machine has ended, or the host's kernel does not list children
        return found

    def _waiting_time(self) -> int:
        """Return how long the machine has waited for a CPU, in nanoseconds (schedstat)."""
        total = 0
        for process in self._processes():
            try:
                with open(f"/proc/{process}/schedstat", encoding="ascii") as file:
                    total += int(file.read().split()[1])
            except (OSError, IndexError, ValueError):
                continue
        return total

    @staticmethod
    def _idle_now() -> dict[int, int]:
        try:
            with open("/proc/stat", encoding="ascii") as file:
                return idle_ticks(file.read())
        except OSError:
            return {}

    def _move(self, cpus: tuple[int, ...]) -> None:
        for process in self._processes():
            try:
                os.sched_setaffinity(process, cpus)
            except OSError:
                continue  # ended meanwhile


def balance(loop: Loop, pid: int, allowed: Sequence[int], count: int) -> None:
    """Look after a machine's place for as long as a loop runs."""
    balancer = Balancer(pid, allowed, count)
    if not balancer.useful:
        return

    def look() -> None:
        balancer.look()
        loop.timer(BALANCE, INTERVAL, look)

    loop.timer(BALANCE, INTERVAL, look)
