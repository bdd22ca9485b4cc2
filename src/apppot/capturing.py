"""Changes leave a machine: into a layer that is made meanwhile, or as an archive into a file."""

from __future__ import annotations

from apppot.agent.loop import READ, Loop
from apppot.agent.task import Task
from apppot.lean import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol

    from apppot.agent.session import Session

    class Growing(Protocol):
        """A layer that is made of what is written to `target`; `result` is readable at its end."""

        target: int
        result: int

        def close(self) -> None:
            """Say that everything has been written."""

        def taken(self) -> bool:
            """Tell whether the layer is made; once, after `close`."""

        def drop(self) -> None:
            """Give it up."""


@dataclass(frozen=True)
class Capture:
    """Archive the machine's changes after the payload's end, to the descriptor `target`.

    With `growing` they are made a layer instead, if it gives one, and if it succeeds.
    """

    target: int
    excludes: tuple[bytes, ...] = ()
    growing: Callable[[], Growing | None] | None = None


class Archiving:
    """Changes that are being archived. `then` is called at the end, be it good or bad."""

    def __init__(
        self, loop: Loop, session: Session, capture: Capture, then: Callable[[], None]
    ) -> None:
        self._loop, self._session, self._capture, self._then = loop, session, capture, then
        self._layer = capture.growing() if capture.growing else None
        self._made = False
        if self._layer:
            self._task = self._archive(self._layer.target, self._flowed)
        else:
            self._task = self._archive(capture.target, then)

    @property
    def done(self) -> bool:
        """Whether all changes are where they should be."""
        return self._made or (self._layer is None and self._task.done)

    @property
    def trouble(self) -> str:
        """Why they are not; '' if they are."""
        if self.done:
            return ""
        return self._task.trouble or "the machine ended before it was done"

    def _archive(self, target: int, then: Callable[[], None]) -> Task:
        words = (b"archive", b"changes", *self._capture.excludes)
        return Task(self._session, words, then, target=target)

    def _flowed(self) -> None:
        """Wait for the layer, or begin again: its maker may have broken off."""
        assert self._layer is not None
        if self._task.done:
            self._layer.close()
            self._loop.watch(self._layer.result, READ, self._ended)
        else:
            self._layer.drop()
            self._again()

    def _ended(self, _: int) -> None:
        assert self._layer is not None
        self._loop.unwatch(self._layer.result)
        if self._layer.taken():
            self._made = True
            self._then()
        else:
            self._again()

    def _again(self) -> None:
        """Archive to the file: then the reason is found, or what needs to be seen as a whole."""
        self._layer = None
        self._task = self._archive(self._capture.target, self._then)
