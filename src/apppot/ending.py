"""What the end of a command means: the exit status, and what the user has to be told."""

from __future__ import annotations

import errno
import os
import signal

from apppot import paths
from apppot.errors import ExitStatus
from apppot.lean import TYPE_CHECKING
from apppot.outcome import Source

if TYPE_CHECKING:
    from collections.abc import Iterator

    from apppot.agent.results import CommandResult
    from apppot.machine.engine import Machine

_FORCED = ExitStatus.SIGNAL_BASE + signal.SIGKILL
_OUT_OF_MEMORY = r"[Oo]ut of memory: Killed process \d+ \((.*?)\)"
_DISK_ERROR = r"error[^\n]* dev(?:ice)? {0}\b|\(device {0}\)[^\n]* error"


def command_status(result: CommandResult | None) -> int:
    """Return the exit status for a command's result (docs/reference/exit-statuses.md)."""
    if result is None or result.failure.startswith(("working directory", "user", "machine")):
        return ExitStatus.MACHINE
    if result.failure_errno in (errno.ENOENT, errno.ENOTDIR):
        return ExitStatus.NOT_FOUND
    if result.failure:
        return ExitStatus.CANNOT_EXECUTE
    if result.signal is not None:
        return ExitStatus.SIGNAL_BASE + result.signal
    return result.code or 0


def run_status(
    result: CommandResult | None, cause: Source | None, early_signal: int
) -> tuple[int, Source]:
    """Return a run's exit status, and whose word it is.

    `cause` ended the payload before its time, `early_signal` the run before there was a payload.
    """
    if early_signal:
        return ExitStatus.SIGNAL_BASE + early_signal, Source.FORCED
    if cause is Source.TIME_LIMIT:
        return ExitStatus.TIME_LIMIT, Source.TIME_LIMIT
    if cause is Source.CHECKPOINT:
        return ExitStatus.CHECKPOINTED, Source.CHECKPOINT
    if result is None or result.failure:
        if cause is Source.FORCED and result is None:
            return _FORCED, Source.FORCED
        return command_status(result), Source.APPPOT
    return command_status(result), Source.PAYLOAD


def command_trouble(program: bytes, result: CommandResult) -> tuple[str, str]:
    """Return why a command did not start, and what to do about it."""
    status = command_status(result)
    name = program.decode("utf-8", "replace")
    reason = os.strerror(result.failure_errno) if result.failure_errno else result.failure
    if result.failure_errno == errno.ELIBACC:  # the agent's word for it; ENOENT is our 127
        reason = "the interpreter or loader that it names is not in the image"
    if status == ExitStatus.MACHINE:
        return f"{result.failure}: {reason}", "see --workdir and --user"
    if status == ExitStatus.NOT_FOUND:
        return f"'{name}' was not found in the image", "give its path, or --env PATH=..."
    return f"'{name}' cannot be executed: {reason}", ""


def stage_hint(stage: str, text: str) -> str:
    """Return what to do when a machine could not be set up, by the stage that failed."""
    if "no driver for" in text:
        return "copy the files to an ext4 disk, or build a kit with that driver"
    return {
        "layers": "the image may be damaged: 'apppot inspect --verify IMAGE' tells",
        "scratch": "check --scratch",
        "share": "check --bind and --job-dir",
        "protocol": "the kit and AppPot may not belong together: 'apppot kit build'",
    }.get(stage, "'apppot doctor' shows what works here; -v shows the guest's console")


def out_of_memory(console: str) -> Iterator[str]:
    """Yield whom the guest's kernel has killed for want of memory, if it says so."""
    import re

    killed = re.search(_OUT_OF_MEMORY, console)
    if killed:
        yield (
            f"the guest ran out of memory and killed '{killed[1]}':"
            " give the machine more with --memory"
        )


def disk_trouble(console: str, disk: str) -> Iterator[str]:
    """Yield that the scratch disk could not be written, if the guest's kernel says so."""
    import re

    if re.search(_DISK_ERROR.format(disk), console):
        yield (
            f"the scratch disk could not be written everywhere: is {paths.scratch_dir()} full?"
            " (APPPOT_TMPDIR names another folder)"
        )


def notes(
    result: CommandResult | None,
    cause: Source | None,
    time_limit: float | None,
    machine: Machine,
) -> Iterator[str]:
    """Yield what the user may want to know although nothing of ours has failed."""
    if cause is Source.TIME_LIMIT:
        yield f"the time limit of {time_limit:g} s was reached"
    elif cause is Source.FORCED:
        yield "the payload did not end after a TERM and was killed"
    if result and result.signal == signal.SIGKILL and not cause:
        yield from out_of_memory(machine.console_tail())
    disk = os.path.basename(machine.guest.scratch)
    if disk:
        yield from disk_trouble(machine.console_tail(), disk)
