"""Files for the user that get their names when they are whole; a killed writer leaves nothing.

Until then such a file has no name. Where the file system has no nameless files, its name begins
with PREFIX and its writer holds a lock on it; the next writer in the folder removes those of the
dead.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
import stat
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING

from apppot import paths
from apppot.errors import ImageError, UsageError
from apppot.image.writer import umask

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = ".apppot-new-"
STDOUT = "-"
OLD = 24 * 60 * 60  # seconds: on a file system without locks, such a file's writer is dead
_NO_NAMELESS = frozenset({errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT, errno.EINVAL, errno.ENOSYS})


def check(path: str) -> None:
    """Raise UsageError if `path` is there and no file: a new file would take its place."""
    with suppress(FileNotFoundError):
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            raise UsageError(f"{path} is a folder; a file is to be written")
        if not stat.S_ISREG(mode):
            raise UsageError(
                f"{path} is a device, a pipe or a socket; a file is to be written",
                hint="write a file, and copy that",
            )


@contextmanager
def whole(path: str, *, mode: int = 0o666) -> Iterator[IO[bytes]]:
    """Give a file that is to be `path`, and replaces it, if no error ends the context.

    Raises OSError, or UsageError if it can be none.
    """
    check(path)
    folder = os.path.dirname(os.path.abspath(path))
    descriptor, name = _new(folder)
    try:
        with os.fdopen(descriptor, "w+b") as file:
            yield file
            file.flush()
            os.fchmod(descriptor, mode & ~umask())
            os.fsync(descriptor)
            name = name or _named(descriptor, folder)
            os.replace(name, path)
            name = ""
    finally:
        if name:
            with suppress(FileNotFoundError):
                os.unlink(name)


@contextmanager
def target(path: str, *, mode: int = 0o666) -> Iterator[IO[bytes]]:
    """Give a file that becomes `path`, or, once it is whole, goes to standard output for `-`.

    Raises UsageError or ImageError.
    """
    if path != STDOUT:
        with explained(path), whole(path, mode=mode) as file:
            yield file
        return
    check_stdout()
    with explained("to standard output"), tempfile.TemporaryFile(dir=paths.scratch_dir()) as file:
        yield file
        file.seek(0)
        shutil.copyfileobj(file, sys.stdout.buffer)
        sys.stdout.buffer.flush()


def check_stdout() -> None:
    """Raise UsageError if standard output is a terminal."""
    if sys.stdout.isatty():
        raise UsageError("an archive is not written to a terminal", hint="say -o FILE")


@contextmanager
def explained(path: str) -> Iterator[None]:
    """Turn the system's errors into ones that say what was to be written."""
    try:
        yield
    except OSError as error:
        raise ImageError(
            f"cannot write {path}: {error.strerror or error}",
            hint="choose a folder on another disk" if error.errno == errno.ENOSPC else "",
        ) from error


def path_of(file: IO[bytes]) -> str:
    """Return a path by which a program that this process starts can open such a file."""
    return f"/proc/{os.getpid()}/fd/{file.fileno()}"


def link(descriptor: int, path: str) -> None:
    """Give an open file one more name, also if it had none; raises OSError."""
    folder = os.open(os.path.dirname(os.path.abspath(path)), os.O_PATH | os.O_CLOEXEC)
    try:
        # Only with a folder's descriptor does Python follow the link (python/cpython#81793).
        source, name = f"/proc/self/fd/{descriptor}", os.path.basename(path)
        os.link(source, name, dst_dir_fd=folder, follow_symlinks=True)
    finally:
        os.close(folder)


def _new(folder: str) -> tuple[int, str]:
    """Return a new file that is locked, and its name: '' if it has none."""
    _sweep(folder)
    name = ""
    try:
        descriptor = os.open(folder, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in _NO_NAMELESS or not os.path.isdir(folder):
            raise
        name = os.path.join(folder, PREFIX + secrets.token_hex(8))
        flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(name, flags, 0o600)
    with suppress(OSError):
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return descriptor, name


def _named(descriptor: int, folder: str) -> str:
    name = os.path.join(folder, PREFIX + secrets.token_hex(8))
    link(descriptor, name)
    return name


def _sweep(folder: str) -> None:
    """Remove what killed writers have left in a folder."""
    with suppress(OSError), os.scandir(folder) as found:
        for entry in found:
            if entry.name.startswith(PREFIX) and entry.is_file(follow_symlinks=False):
                with suppress(OSError):
                    if _is_dead(entry.path):
                        os.unlink(entry.path)


def _is_dead(path: str) -> bool:
    descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return time.time() - os.fstat(descriptor).st_mtime > OLD
    finally:
        os.close(descriptor)
    return True
