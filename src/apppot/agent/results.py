"""How commands and machines ended, as the guest agent tells it."""

from __future__ import annotations

import os
import signal

from apppot.agent import frames
from apppot.errors import ProtocolError
from apppot.lean import dataclass


@dataclass(frozen=True)
class CommandResult:
    """How a command ended; times in seconds, memory in bytes."""

    code: int | None = None
    signal: int | None = None
    failure: str = ""
    failure_errno: int = 0
    core_dumped: bool = False
    user_time: float = 0.0
    system_time: float = 0.0
    peak_memory: int = 0


@dataclass(frozen=True)
class Failure:
    """Why the machine is unusable."""

    stage: str
    text: str
    errno: int

    def __str__(self) -> str:
        reason = f": {os.strerror(self.errno)}" if self.errno else ""
        return f"{self.text}{reason}"


def failure_of(payload: bytes) -> Failure:
    """Return what a FAILED frame says."""
    found = frames.parse_records(payload)
    return Failure(
        stage=found.get(2, b"").decode("utf-8", "replace"),
        text=found.get(4, b"").decode("utf-8", "replace"),
        errno=frames.number(found, 3),
    )


def result_of(payload: bytes) -> CommandResult:
    """Return what an EXITED frame says; raises ProtocolError if that makes no sense."""
    found = frames.parse_records(payload)
    code, number = (frames.number(found, tag) if tag in found else None for tag in (6, 7))
    if (code is None) == (number is None) or not 0 <= (code or 0) <= 255:  # noqa: PLR2004
        raise ProtocolError("the guest agent sent a result without a valid exit status")
    if number is not None and not 0 < number < signal.NSIG:
        raise ProtocolError(f"the guest agent reported signal {number}")
    return CommandResult(
        code=code,
        signal=number,
        core_dumped=bool(frames.number(found, 8)),
        user_time=frames.number(found, 9) / 1e6,
        system_time=frames.number(found, 10) / 1e6,
        peak_memory=frames.number(found, 11),
    )
