"""A command's standard streams on the host: read and written without ever blocking the loop."""

from __future__ import annotations

import errno
import os
import stat

from apppot.agent.frames import MAX_PAYLOAD, WINDOW
from apppot.agent.loop import READ, WRITE, Loop, would_block
from apppot.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

# poll(2) promises that a writable pipe takes PIPE_BUF bytes, and no more (pipe(7)).
PIPE_BUF = 4096


def _private(descriptor: int, flags: int) -> tuple[int, int]:
    """Return a descriptor that may be non-blocking, and how much may be moved at a time.

    The streams belong to others too: O_NONBLOCK on the inherited open file would break them.
    So pipes and terminals are opened once more; what cannot be is moved in small pieces.
    """
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode) or stat.S_ISBLK(mode):
        return os.dup(descriptor), MAX_PAYLOAD
    if stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
        try:
            path = f"/proc/self/fd/{descriptor}"
            return os.open(path, flags | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC), MAX_PAYLOAD
        except OSError:
            pass
    return os.dup(descriptor), PIPE_BUF


def let_go(descriptor: int) -> None:
    """Put /dev/null in a descriptor's place, so that its reader sees the end."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, descriptor)
    os.close(null)


class Sink:
    """Where a command's output goes: standard output or error of the host's side."""

    def __init__(
        self,
        loop: Loop,
        descriptor: int,
        *,
        passed_on: Callable[[int], None],
        gone: Callable[[OSError], None],
    ) -> None:
        self._loop = loop
        self._passed_on = passed_on
        self._gone = gone
        self._waiting = bytearray()
        self.on_flush: Callable[[], None] = lambda: None
        self.error: OSError | None = None
        self._then: Callable[[], None] | None = None
        self._own = -1
        self._step = MAX_PAYLOAD
        try:
            self._own, self._step = _private(descriptor, os.O_WRONLY)
        except OSError as error:
            self.error = error

    @property
    def open(self) -> bool:
        """Whether more may come: the guest has not ended the stream, and somebody reads it."""
        return self._own >= 0 and self.error is None and self._then is None

    @property
    def waiting(self) -> bytes:
        """What has come and has not been written yet."""
        return bytes(self._waiting)

    @property
    def idle(self) -> bool:
        """Whether everything that came has been written, or never will be."""
        return not self._waiting

    def feed(self, data: bytes) -> None:
        """Write `data`, now or when the reader takes it."""
        if self.error:
            return
        if not self._waiting:
            data = data[self._write(data) :]
            if data and not self.error:
                self._loop.watch(self._own, WRITE, self._ready)
        self._waiting += data

    def end(self, then: Callable[[], None]) -> None:
        """Close once all that came has been written, and call `then`."""
        self._then = then
        if not self._waiting:
            self._finish()

    def close(self) -> None:
        """Give the descriptor back."""
        if self._own >= 0:
            self._loop.unwatch(self._own)
            os.close(self._own)
            self._own = -1

    def fail(self) -> None:
        """Report an error that was found when the descriptor was opened."""
        if self.error:
            self._gone(self.error)

    def _ready(self, _: int) -> None:
        done = self._write(bytes(self._waiting[: 4 * MAX_PAYLOAD]))
        if self.error:
            self._waiting.clear()
        else:
            del self._waiting[:done]
        if not self._waiting:
            self._loop.unwatch(self._own)
            self._finish()
            self.on_flush()

    def _finish(self) -> None:
        if self._then:
            then, self._then = self._then, None
            self.close()
            then()

    def _write(self, data: bytes) -> int:
        done = 0
        try:
            while done < len(data):
                step = data[done : done + self._step] if done or self._step < len(data) else data
                done += os.write(self._own, step)
                if self._step == PIPE_BUF:
                    break  # the next piece might block
        except OSError as error:
            if not would_block(error):
                self.error = error
                self._gone(error)
                return len(data)
        if done:
            self._passed_on(done)
        return done


class Source:
    """Where a command's input comes from: standard input of the host's side."""

    def __init__(
        self,
        loop: Loop,
        descriptor: int,
        *,
        arrived: Callable[[bytes], None],
        credit: int = WINDOW,
    ) -> None:
        self._loop = loop
        self._arrived = arrived
        self.credit = credit  # bytes that may be read
        self._own = -1
        self._step = MAX_PAYLOAD
        self._watched = False
        self.ended = False
        try:
            self._own, self._step = _private(descriptor, os.O_RDONLY)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise
            self._end()  # a closed standard input is an empty one
            return
        self._resume()

    def grant(self, amount: int) -> None:
        """Let `amount` more bytes be read."""
        self.credit += amount
        self._resume()

    def close(self) -> None:
        """Read no more, and give the descriptor back; without an end-of-file."""
        self.ended = True
        if self._own >= 0:
            self._pause()
            os.close(self._own)
            self._own = -1

    def _resume(self) -> None:
        if not self.ended and not self._watched and self.credit > 0:
            self._loop.watch(self._own, READ, self._ready)
            self._watched = True

    def _pause(self) -> None:
        if self._watched:
            self._loop.unwatch(self._own)
            self._watched = False

    def _ready(self, _: int) -> None:
        try:
            data = os.read(self._own, min(self.credit, self._step))
        except OSError as error:
            if would_block(error):
                return
            data = b""  # a terminal that hung up, a directory: nothing more will come
        if not data:
            self._end()
            return
        self.credit -= len(data)
        if self.credit <= 0:
            self._pause()
        self._arrived(data)

    def _end(self) -> None:
        self.close()
        self._arrived(b"")
