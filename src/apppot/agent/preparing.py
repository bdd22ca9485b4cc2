"""Let the agent prepare a machine before its payload starts, by builtins that read from files."""

from __future__ import annotations

from apppot.agent.task import Task
from apppot.lean import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from apppot.agent.session import Session

    class Preparer(Protocol):
        """What is done in a machine before its payload starts; `trouble` says why not."""

        trouble: str

        def begin(self, then: Callable[[], None]) -> None:
            """Start; `then` is called at the end, be it good or bad."""


@dataclass(frozen=True)
class Preparation:
    """A builtin of the agent, the descriptor that it reads, and what it does in one phrase."""

    words: tuple[bytes, ...]
    source: int
    purpose: str


class Preparing:
    """The preparations of one machine, one after the other until one fails."""

    def __init__(self, session: Session, wanted: tuple[Preparation, ...]) -> None:
        self._session = session
        self._left = list(wanted)
        self._task: Task | None = None
        self._then: Callable[[], None] = lambda: None
        self.trouble = ""

    def begin(self, then: Callable[[], None]) -> None:
        """Start; `then` is called when all is done, or when `trouble` says why not."""
        self._then = then
        self._next()

    def _next(self) -> None:
        if not self._left:
            self._then()
            return
        each = self._left[0]
        self._task = Task(self._session, each.words, self._ended, source=each.source)

    def _ended(self) -> None:
        each = self._left.pop(0)
        if self._task and self._task.trouble:
            self.trouble = f"{each.purpose}: {self._task.trouble}"
            self._left.clear()
        self._next()
