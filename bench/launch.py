"""Start what is measured, and read what the kernel tells about processes."""

from __future__ import annotations

import os
import resource
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.series import CaseError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PATIENCE = 300.0  # seconds


@dataclass(frozen=True)
class Run:
    """One run of a command: its time from launch to exit, and its output."""

    seconds: float
    began: int  # nanoseconds since 1970
    cpu: float
    stdout: bytes
    stderr: bytes

    def number(self) -> float:
        """Return the number that the command printed."""
        try:
            return float(self.stdout.split()[0])
        except (IndexError, ValueError):
            raise CaseError(f"unexpected output {self.stdout[:80]!r}") from None


def environment(extra: Mapping[str, str]) -> dict[str, str]:
    """Return the caller's environment without what would spoil Python's start."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    return {**kept, **extra}


def launch(
    argv: Sequence[str],
    *,
    extra: Mapping[str, str] | None = None,
    cwd: str | None = None,
    stdout: int = subprocess.PIPE,
    stdin: int = subprocess.DEVNULL,
    expected: int = 0,
) -> Run:
    """Run a command to its end; raises CaseError if it fails."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    began, start = time.time_ns(), time.perf_counter()
    try:
        done = subprocess.run(
            list(argv),
            env=environment(extra or {}),
            cwd=cwd,
            stdin=stdin,
            stdout=stdout,
            stderr=subprocess.PIPE,
            timeout=PATIENCE,
            check=False,
        )
    except FileNotFoundError:
        raise CaseError("not installed") from None
    except subprocess.TimeoutExpired:
        raise CaseError(f"did not end within {PATIENCE:g} s") from None
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode != expected:
        raise CaseError(f"status {done.returncode}: {last_line(done.stderr)}")
    cpu = (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)
    return Run(seconds, began, cpu, done.stdout or b"", done.stderr or b"")


def last_line(text: bytes) -> str:
    """Return the last line that says something, without paths."""
    lines = [line.strip() for line in text.decode("utf-8", "replace").splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("hint:")] or lines
    words = (lines[-1] if lines else "no message").split()
    return " ".join("PATH" if "/" in word else word for word in words)[:160]


def descendants(pid: int) -> list[int]:
    """Return the processes below `pid`."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as file:
                    parent = int(file.read().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(name))
    found, left = [], [pid]
    while left:
        below = children.get(left.pop(), [])
        found += below
        left += below
    return found


def pss(pid: int) -> int:
    """Return a process's proportional share of memory in bytes, 0 if it has gone."""
    try:
        with open(f"/proc/{pid}/smaps_rollup", encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("Pss:"):
                    return int(line.split()[1]) << 10
    except OSError:
        pass
    return 0


def available() -> int:
    """Return the host's available memory in bytes."""
    with open("/proc/meminfo", encoding="ascii") as file:
        rows = dict(line.split(":", 1) for line in file)
    return int(rows["MemAvailable"].split()[0]) << 10
