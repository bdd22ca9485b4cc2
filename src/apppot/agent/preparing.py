"""Let the agent prepare a machine before its payload starts, by builtins that read from files."""

from __future__ import annotations

import os

from apppot.agent.spec import CommandSpec
from apppot.lean import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from collections.abc import Callable

    from apppot.agent.session import Command, Session

_LONGEST_REASON = 4096


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
        self._command: Command | None = None
        self._reasons = -1
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
        self._reasons = os.memfd_create("reasons")
        nothing = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
        spec = CommandSpec(
            arguments=each.words,
            environment=(),
            directory=b"/",
            uid=0,
            gid=0,
            builtin=each.words[0],
        )
        self._command = self._session.start(spec, (each.source, nothing, self._reasons))
        self._command.on_end = lambda _: self._ended()
        os.close(nothing)

    def _ended(self) -> None:
        command = self._command
        if command is None or command.result is None:
            return
        if not command.flushed:
            command.on_flush = self._ended
            return
        command.on_flush = lambda: None
        self._command = None
        each = self._left.pop(0)
        if command.result.code != 0:
            said = os.pread(self._reasons, _LONGEST_REASON, 0).decode("utf-8", "replace").strip()
            self.trouble = f"{each.purpose}: {said or command.result.failure or 'no reason given'}"
            self._left.clear()
        os.close(self._reasons)
        self._next()
