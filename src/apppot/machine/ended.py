"""Why a machine ended before its time, from its process's end and its console."""

from __future__ import annotations

import re
import signal

from apppot.errors import MachineError

_PANIC = r"Kernel panic - not syncing: (.*)"


def error(status: int, console: str) -> MachineError:
    """Return what to tell the user."""
    return MachineError(diagnosis(status, console), hint=advice(status, console))


def diagnosis(status: int, console: str) -> str:
    """Return in one or two lines why the guest kernel's process ended."""
    panic = re.search(_PANIC, console)
    if panic:
        return f"the guest kernel panicked: {panic[1].strip()}"
    if status < 0:
        name = signal.Signals(-status).name if -status in set(signal.Signals) else str(-status)
        return f"the guest kernel's process was killed by signal {-status} ({name})"
    lines = [line for line in console.splitlines() if line.strip()]
    last = f"; it said last: {lines[-1].strip()}" if lines else ""
    return f"the guest kernel ended (status {status}) before the command did{last}"


def advice(status: int, console: str) -> str:
    """Return what the user can do about it."""
    if "Out of memory" in console or "System is deadlocked on memory" in console:
        return "give the machine more memory with --memory"
    if status == -signal.SIGBUS:
        return "the host ran out of memory (or of room in TMPDIR) for the guest: use less --memory"
    if status == -signal.SIGKILL:
        return "someone killed it, or the host's or job's memory limit did (see --memory auto)"
    return "'apppot doctor' shows what works here; -v shows the guest's console"
