"""A small event loop over poll(2): descriptors of any kind, timers, and signals."""

from __future__ import annotations

import errno
import os
import select
import signal
import time

from apppot.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

READ = select.POLLIN
WRITE = select.POLLOUT
_BROKEN = select.POLLERR | select.POLLHUP | select.POLLNVAL


class Loop:
    """Call back when descriptors are ready, times have come, or signals have arrived.

    poll(2) and not epoll(7): standard input may be a regular file, which epoll refuses.
    """

    def __init__(self) -> None:
        self._poll = select.poll()
        self._callbacks: dict[int, Callable[[int], None]] = {}
        self._timers: dict[object, tuple[float, Callable[[], None]]] = {}
        self._stopped = False

    def watch(self, descriptor: int, events: int, callback: Callable[[int], None]) -> None:
        """Call `callback(events)` whenever one of `events` (or a hang-up) is there."""
        self._callbacks[descriptor] = callback
        self._poll.register(descriptor, events)

    def unwatch(self, descriptor: int) -> None:
        """Forget a descriptor; no error if it is not watched."""
        if self._callbacks.pop(descriptor, None):
            self._poll.unregister(descriptor)

    def timer(self, name: object, seconds: float, callback: Callable[[], None]) -> None:
        """Call `callback` once, `seconds` from now; replaces the timer of the same name."""
        self._timers[name] = (time.monotonic() + seconds, callback)

    def cancel(self, name: object) -> None:
        """Forget a timer; no error if there is none."""
        self._timers.pop(name, None)

    def stop(self) -> None:
        """Make `run` return."""
        self._stopped = True

    def run(self) -> None:
        """Dispatch events until `stop` is called."""
        self._stopped = False
        while not self._stopped:
            for descriptor, events in self._poll.poll(self._patience()):
                callback = self._callbacks.get(descriptor)
                # An earlier callback of this round may have unwatched it, or stopped the loop.
                if callback and not self._stopped:
                    callback(events)
            self._fire()

    def _patience(self) -> int | None:
        """Return how long to wait, in milliseconds; None: for ever."""
        if not self._timers:
            return None
        earliest = min(when for when, _ in self._timers.values())
        return max(0, int((earliest - time.monotonic()) * 1000) + 1)

    def _fire(self) -> None:
        if not self._timers:
            return
        now = time.monotonic()
        for name, (when, callback) in sorted(self._timers.items(), key=lambda timer: timer[1][0]):
            if when <= now and self._timers.get(name, (0.0, None))[0] == when:
                del self._timers[name]
                callback()


class Signals:
    """Deliver signals as events of a loop, for as long as the context lasts."""

    def __init__(self, loop: Loop, numbers: Iterable[int], callback: Callable[[int], None]) -> None:
        self._loop = loop
        self._numbers = tuple(numbers)
        self._callback = callback
        self._previous: dict[int, object] = {}
        self._read = self._write = -1

    def __enter__(self) -> Signals:  # noqa: PYI034
        """Install the handlers."""
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        for number in self._numbers:
            if signal.getsignal(number) is signal.SIG_IGN and number == signal.SIGHUP:
                continue  # nohup: stays ignored
            self._previous[number] = signal.signal(number, lambda *_: None)
        self._loop.watch(self._read, READ, self._arrived)
        return self

    def __exit__(self, *_: object) -> None:
        """Put the handlers back as they were."""
        self._loop.unwatch(self._read)
        signal.set_wakeup_fd(-1)
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        os.close(self._read)
        os.close(self._write)

    def _arrived(self, _: int) -> None:
        for number in os.read(self._read, 64):
            self._callback(number)


def broken(events: int) -> bool:
    """Tell whether poll(2) reports an error or a hang-up."""
    return bool(events & _BROKEN)


def would_block(error: OSError) -> bool:
    """Tell whether an error only means 'not now'."""
    return error.errno in (errno.EAGAIN, errno.EINTR)
