"""The user's terminal while a command of the guest owns it."""

from __future__ import annotations

import os
import sys

from apppot.agent.spec import Terminal
from apppot.errors import UsageError
from apppot.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from types import TracebackType


def tell(text: object) -> None:
    """Tell the user something on standard error, also while the terminal is raw."""
    end = "\r\n" if sys.stderr.isatty() else "\n"
    print(f"apppot: {text}", end=end, file=sys.stderr, flush=True)


def size(descriptor: int) -> Terminal:
    """Return a terminal's size, 80 by 24 if it does not know."""
    try:
        columns, rows = os.get_terminal_size(descriptor)
    except OSError:
        return Terminal()
    return Terminal(rows, columns) if rows and columns else Terminal()


def find() -> int:
    """Return the descriptor of standard input, which has to be a terminal; raises UsageError."""
    try:
        if os.isatty(0):
            return 0
    except OSError:
        pass
    raise UsageError(
        "a terminal was asked for, but standard input is none",
        hint="leave out -t, or run it from a terminal (ssh -t, srun --pty)",
    )


class Raw:
    """Hand every key to the guest, for as long as the context lasts."""

    def __init__(self, descriptor: int) -> None:
        import termios  # only for terminals

        self._termios = termios
        self._descriptor = descriptor
        self._before = termios.tcgetattr(descriptor)

    def __enter__(self) -> Raw:  # noqa: PYI034
        """Make the terminal raw."""
        self.apply()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Put the terminal back as it was."""
        self.restore()
        sys.stderr.flush()

    def apply(self) -> None:
        """Make the terminal raw: termios(3), cfmakeraw."""
        t = self._termios
        iflag, oflag, cflag, lflag, ispeed, ospeed, cc = t.tcgetattr(self._descriptor)
        iflag &= ~(t.IGNBRK | t.BRKINT | t.PARMRK | t.ISTRIP | t.INLCR | t.IGNCR | t.ICRNL | t.IXON)
        oflag &= ~t.OPOST
        lflag &= ~(t.ECHO | t.ECHONL | t.ICANON | t.ISIG | t.IEXTEN)
        cflag = (cflag & ~(t.CSIZE | t.PARENB)) | t.CS8
        mode = [iflag, oflag, cflag, lflag, ispeed, ospeed, cc]
        t.tcsetattr(self._descriptor, t.TCSADRAIN, mode)

    def restore(self) -> None:
        """Put the terminal back as it was."""
        self._termios.tcsetattr(self._descriptor, self._termios.TCSADRAIN, self._before)
