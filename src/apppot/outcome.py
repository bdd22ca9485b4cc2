"""How a run ended: what its caller is told."""

from __future__ import annotations

from enum import StrEnum

from apppot.lean import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from apppot.agent.results import CommandResult


class Phase(StrEnum):
    """The life of a machine."""

    BOOTING = "booting"
    RUNNING = "running"
    ENDING = "ending"
    DOWN = "down"


class Source(StrEnum):
    """Who decided the exit status (the report's `source`)."""

    PAYLOAD = "payload"
    TIME_LIMIT = "time-limit"
    FORCED = "forced"
    CHECKPOINT = "checkpoint"
    APPPOT = "apppot"


@dataclass(frozen=True)
class Outcome:
    """How a run ended. Times in seconds, since the guest kernel's start unless said otherwise."""

    status: int
    source: Source
    result: CommandResult | None
    message: str = ""
    hint: str = ""
    notes: tuple[str, ...] = ()
    firmware_time: float | None = None  # from the launch to the guest kernel's start
    hello_time: float | None = None
    ready_time: float | None = None
    start_time: float | None = None
    guest_memory: int = 0
    host_cpu_time: float = 0.0
    host_peak_memory: int = 0
    kernel: str = ""
    captured: bool = False  # the changes were archived, wholly
