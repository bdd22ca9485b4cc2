"""Digests of saved disks, computed beside other work; how their holes are stored counts nothing."""

from __future__ import annotations

import errno
import hashlib
import os
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import ExitStack

_PIECE = 1 << 18
_ZEROS = bytes(_PIECE)
_LOOK = 0.05  # seconds between looks at what else may have happened


class Digest:
    """The SHA-256 of a file's pieces that are not all zeros, each with its place.

    So a hole costs no time, and a copy that has zeros in its place has the same digest. The file
    stays as it is until the result is there, or the stack has ended.
    """

    def __init__(self, descriptor: int, stack: ExitStack) -> None:
        """Begin to read a file, whose descriptor stays the caller's."""
        self._descriptor = descriptor
        self._sum = hashlib.sha256()
        self._unwanted = False
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        stack.callback(self._end)

    def result(self, look: Callable[[], None] = lambda: None) -> str:
        """Wait for the digest; meanwhile `look`, which may raise. Raises OSError."""
        while self._thread.is_alive():
            look()
            self._thread.join(_LOOK)
        if self._error:
            raise self._error
        return self._sum.hexdigest()

    def _end(self) -> None:
        self._unwanted = True
        self._thread.join()

    def _run(self) -> None:
        try:
            for at, piece in _pieces(self._descriptor):
                if self._unwanted:
                    return
                if piece != _ZEROS[: len(piece)]:
                    self._sum.update(at.to_bytes(8, "little"))
                    self._sum.update(piece)
        except OSError as error:
            self._error = error


def _pieces(descriptor: int) -> Iterator[tuple[int, bytes]]:
    """Yield the pieces of a file that are not wholly holes, and their places."""
    at, size = 0, os.fstat(descriptor).st_size
    while at < size:
        try:
            data = os.lseek(descriptor, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # from here on there is a hole
                return
            raise
        at = data - data % _PIECE
        piece = os.pread(descriptor, _PIECE, at)
        yield at, piece
        at += _PIECE
