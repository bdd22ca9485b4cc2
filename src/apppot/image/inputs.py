"""Files that images are read from: also standard input, pipes, and a shell's `<(...)`."""

from __future__ import annotations

import io
import os
import stat
import sys
from typing import IO

from apppot.errors import ImageError, UsageError
from apppot.image import compressed, writer

STDIN = "-"


def opened(path: str, folder: str) -> IO[bytes]:
    """Return a file that can be read from any place; `-` is standard input.

    What comes through a pipe is first copied to a file without a name in `folder`, as long as its
    disk has room. Raises UsageError or ImageError.
    """
    if path == STDIN:
        if sys.stdin.isatty():
            raise UsageError("an archive is not read from a terminal", hint="name a file")
        source: IO[bytes] = io.FileIO(os.dup(0), "rb")
    else:
        try:
            source = open(path, "rb", buffering=0)  # noqa: SIM115  the caller's, or closed below
        except OSError as error:
            raise ImageError(f"cannot read {path}: {error.strerror}") from error
    mode = os.fstat(source.fileno()).st_mode
    if stat.S_ISREG(mode) or stat.S_ISBLK(mode):
        source.seek(0)
        return source
    with source:
        return _copied(source, path, folder)


def _copied(source: IO[bytes], path: str, folder: str) -> IO[bytes]:
    copy = writer.nameless(folder)
    try:
        room = compressed.Room(folder)
        for piece in compressed.pieces_of(source):
            room.take(len(piece))
            copy.write(piece)
        copy.flush()
        copy.seek(0)
    except BaseException as error:
        copy.close()
        if isinstance(error, OSError):
            raise ImageError(f"cannot read {path}: {error.strerror}") from error
        raise
    return copy
