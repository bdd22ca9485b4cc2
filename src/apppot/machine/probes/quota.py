"""Probe how many processes, open files and CPUs there are for a run."""

from __future__ import annotations

import os
import resource

from apppot.machine import limits
from apppot.machine.probes import system
from apppot.machine.probes.finding import Finding, Outcome

_FEW_PROCESSES, _TOO_FEW_PROCESSES = 256, 8
_FEW_FILES = 1024


def processes() -> Finding:
    """Find how many more processes may be started: each process of a UML guest is one here."""
    rooms = list(_process_rooms())
    meaning = "each process in a UML guest is a process here"
    details: dict[str, object] = {"room": [{"room": n, "source": text} for n, text in rooms]}
    if not rooms:
        return Finding("processes", Outcome.WORKS, "no limit", meaning, "", details)
    room, source = min(rooms)
    found = f"{room} more may be started ({source})"
    if room < _TOO_FEW_PROCESSES:
        advice = "end other processes, or raise the limit"
        return Finding("processes", Outcome.FAILS, found, "a machine cannot start", advice, details)
    if room < _FEW_PROCESSES:
        advice = "raise 'ulimit -u' or the control group's pids.max for payloads of many processes"
        return Finding("processes", Outcome.LIMITED, found, meaning, advice, details)
    return Finding("processes", Outcome.WORKS, found, meaning, "", details)


def _process_rooms() -> list[tuple[int, str]]:
    rooms = []
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if soft != resource.RLIM_INFINITY and os.geteuid() != 0:  # root is not held by it
        used = _own_threads()
        rooms.append((max(0, soft - used), f"ulimit -u is {soft}, {used} run"))
    for _, folder in limits.cgroup_folders("pids"):
        most, used_there = (system.number(f"{folder}/pids.{name}") for name in ("max", "current"))
        if most is not None and used_there is not None:
            source = f"{folder}/pids.max is {most}, {used_there} run"
            rooms.append((max(0, most - used_there), source))
    return rooms


def _own_threads() -> int:
    """Return how many threads this user has; the limit counts threads."""
    uid, count = os.getuid(), 0
    for name in os.listdir("/proc"):
        if name.isdecimal():
            try:
                if os.stat(f"/proc/{name}").st_uid == uid:
                    count += len(os.listdir(f"/proc/{name}/task"))
            except OSError:
                continue  # it has ended
    return count


def open_files() -> Finding:
    """Find how many files one process may have open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    found = f"ulimit -n is {soft}, and may be raised to {hard}"
    meaning = "files open in shared folders, and connections, are counted on one process here"
    details = {"soft": soft, "hard": hard}
    if soft < _FEW_FILES:
        advice = f"ulimit -n {min(hard, 65536)}" if hard > soft else "ask for a higher hard limit"
        return Finding("open-files", Outcome.LIMITED, found, meaning, advice, details)
    return Finding("open-files", Outcome.WORKS, found, meaning, "", details)


def cpus() -> Finding:
    """Find the CPUs that may be used, and whether their time is rationed."""
    allowed = limits.allowed_cpus()
    there = os.cpu_count() or len(allowed)
    quota = limits.cpu_quota()
    found = f"{len(allowed)} of {there} CPUs may be used"
    details = {"allowed": list(allowed), "there": there, "quota": quota and quota[0]}
    if quota and quota[0] < len(allowed):
        found += f", rationed to the time of {quota[0]:g} ({quota[1]})"
        meaning = "a machine with more CPUs than that would only be stopped more often"
        advice = f"use --cpus {max(1, int(quota[0]))}"
        return Finding("cpus", Outcome.LIMITED, found, meaning, advice, details)
    meaning = "a machine may have as many"
    return Finding("cpus", Outcome.WORKS, found, meaning, "", details)
