"""Tell the user how a long piece of work goes: one line a step, on stderr."""

from __future__ import annotations

import contextlib
import sys
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class Progress:
    """One line for each step, with the time that it took; on a terminal it is there at once."""

    def __init__(self, *, quiet: bool = False) -> None:
        self.quiet = quiet
        self.terminal = sys.stderr.isatty()
        self.started = time.monotonic()

    @contextlib.contextmanager
    def step(self, what: str) -> Iterator[None]:
        """Report the step `what` when it begins and when it ends."""
        begun = time.monotonic()
        if self.terminal:
            self._write(f"{what:60} ...")
        done = False
        try:
            yield
            done = True
        finally:
            end = f"{time.monotonic() - begun:6.1f} s" if done else "failed"
            self._write(("\r" if self.terminal else "") + f"{what:60} {end:>9}\n")

    def note(self, what: str) -> None:
        """Report something that the user should know."""
        self._write(f"{what}\n")

    @property
    def elapsed(self) -> float:
        """The seconds since the work began."""
        return time.monotonic() - self.started

    def _write(self, text: str) -> None:
        if not self.quiet:
            sys.stderr.write(text)
            sys.stderr.flush()
