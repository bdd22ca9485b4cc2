"""The errors that users see, and the exit statuses that they lead to."""

from __future__ import annotations

from enum import IntEnum


class ExitStatus(IntEnum):
    """Exit statuses of AppPot's own making (docs/reference/exit-statuses.md)."""

    OK = 0
    FAILURE = 1
    USAGE = 2
    CONFLICT = 3
    CHECKPOINTED = 85
    TIME_LIMIT = 124
    MACHINE = 125
    CANNOT_EXECUTE = 126
    NOT_FOUND = 127
    SIGNAL_BASE = 128


class AppPotError(Exception):
    """Something that the user can understand and act upon.

    `message` says what was tried and what was found; `hint` says what to do. `status` overrides
    the exit status that the verb would give to its failures.
    """

    def __init__(self, message: str, *, hint: str = "", status: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.status = status

    def __str__(self) -> str:
        return f"{self.message}\n  hint: {self.hint}" if self.hint else self.message


class UsageError(AppPotError):
    """The command line, a configuration file or an environment variable makes no sense."""


class KitError(AppPotError):
    """The kit is missing, damaged, foreign, or could not be built."""


class ImageError(AppPotError):
    """An image is missing, damaged, or could not be made."""


class MachineError(AppPotError):
    """The virtual machine could not be started, or died before its payload's end."""


class ProtocolError(MachineError):
    """The guest agent sent something that the protocol does not allow."""


class ProcessError(AppPotError):
    """A program that AppPot called has failed; carries its command line and its last output."""

    def __init__(self, message: str, *, returncode: int, output: str = "", hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.returncode = returncode
        self.output = output
