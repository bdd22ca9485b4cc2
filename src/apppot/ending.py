"""What the end of a command means: the exit status, and what the user has to be told."""

from __future__ import annotations

import errno
import os

from apppot.errors import ExitStatus
from apppot.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from apppot.agent.session import CommandResult


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
