"""Show a long work's progress: one changing line on a terminal, nothing elsewhere."""

from __future__ import annotations

import shutil
import sys
import time
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

CLEAR = "\r\x1b[K"


class Progress:
    """A line on standard error that says what is being done, and for how long already."""

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()
        self.begun = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._write(CLEAR)

    def step(self, what: str) -> None:
        """Say what is being done now."""
        seconds = time.monotonic() - self.begun
        width = shutil.get_terminal_size().columns - 1
        self._write(CLEAR + f"{seconds:4.0f} s  {what}"[:width])

    def note(self, what: str) -> None:
        """Say something that stays; also where there is no terminal."""
        self._write(CLEAR)
        print(f"apppot: {what}", file=sys.stderr)

    def _write(self, text: str) -> None:
        if self.terminal:
            sys.stderr.write(text)
            sys.stderr.flush()
