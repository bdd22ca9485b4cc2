"""One builtin of the agent's, run as a command of a session, with what it says of its failure."""

from __future__ import annotations

import os

from apppot.agent.spec import CommandSpec
from apppot.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from apppot.agent.session import Command, Session

_LONGEST_REASON = 4096


class Task:
    """A builtin that has been started: under way, done, or failed."""

    def __init__(
        self,
        session: Session,
        words: tuple[bytes, ...],
        then: Callable[[], None],
        *,
        source: int | None = None,
        target: int | None = None,
    ) -> None:
        """Start it; `then` is called when it has ended and its output is in `target`."""
        self._then = then
        self._said = ""
        self._reasons = os.memfd_create("reasons")
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        spec = CommandSpec(
            arguments=words,
            environment=(),
            directory=b"/",
            uid=0,
            gid=0,
            builtin=words[0],
        )
        stdio = (
            nothing if source is None else source,
            nothing if target is None else target,
            self._reasons,
        )
        self._command: Command = session.start(spec, stdio)
        self._command.on_end = lambda _: self._ended()
        os.close(nothing)

    def _ended(self) -> None:
        command = self._command
        if not command.flushed:
            command.on_flush = self._ended
            return
        command.on_flush = lambda: None
        said = os.pread(self._reasons, _LONGEST_REASON, 0)
        os.close(self._reasons)
        self._said = said.decode("utf-8", "replace").strip()
        self._then()

    @property
    def _unwritten(self) -> OSError | None:
        """Why output was lost; a reader that went away is no excuse, as it is for payloads."""
        return next((sink.error for sink in self._command.sinks.values() if sink.error), None)

    @property
    def done(self) -> bool:
        """Whether it has done all that was asked."""
        result = self._command.result
        flushed = self._command.flushed and self._unwritten is None
        return result is not None and result.code == 0 and flushed

    @property
    def trouble(self) -> str:
        """Why it is not done; '' if it is."""
        if self.done:
            return ""
        command = self._command
        if self._unwritten:
            return f"{self._unwritten.strerror} (APPPOT_TMPDIR names another folder)"
        if command.result is None:
            return "the machine ended before it was done"
        return self._said or command.result.failure or "the agent did not finish it"
