"""Let the agent archive what a machine has changed, as one more command of its session."""

from __future__ import annotations

import os

from apppot.agent.spec import CommandSpec
from apppot.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from apppot.agent.session import Command, Session
    from apppot.run import Capture

ARCHIVE = b"archive"
_LONGEST_REASON = 4096


class Archiving:
    """The archive of one machine's changes: not begun, under way, done, or failed."""

    def __init__(self, session: Session, capture: Capture) -> None:
        self._session = session
        self._capture = capture
        self._command: Command | None = None
        self._reasons = -1
        self._then: Callable[[], None] = lambda: None
        self.done = False

    def begin(self, then: Callable[[], None]) -> None:
        """Start; `then` is called when the archive is whole in its file, or has failed."""
        self._then = then
        nothing = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
        self._reasons = os.memfd_create("reasons")
        spec = CommandSpec(
            arguments=(ARCHIVE, b"changes", *self._capture.excludes),
            environment=(),
            directory=b"/",
            uid=0,
            gid=0,
            builtin=ARCHIVE,
        )
        stdio = (nothing, self._capture.target, self._reasons)
        self._command = self._session.start(spec, stdio)
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
        self.done = command.result.code == 0 and command.output_error is None
        self._then()

    @property
    def trouble(self) -> str:
        """Why there is no archive; '' if there is, or if it was never begun."""
        command = self._command
        if command is None or self.done:
            return ""
        if command.output_error:
            return f"{command.output_error.strerror} (APPPOT_TMPDIR names another folder)"
        said = os.pread(self._reasons, _LONGEST_REASON, 0).decode("utf-8", "replace").strip()
        if command.result is None:
            return "the machine ended before all was read"
        return said or command.result.failure or "the agent did not finish the archive"
