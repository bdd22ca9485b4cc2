"""A folder for one piece of long work, which is removed even if the work is killed.

Its owner holds a lock on it. Whoever comes later removes the folders whose locks are free.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from apppot import process
from apppot.errors import AppPotError

if TYPE_CHECKING:
    from collections.abc import Iterator

PREFIX = "apppot-work-"
LOCK = "lock"


@contextmanager
def workplace(folder: str) -> Iterator[tuple[str, int]]:
    """Give a new folder in `folder`, and the descriptor of its lock for the work's own processes.

    Others can pass through it, so that mmdebstrap's can, which are of other users.
    """
    sweep(folder)
    try:
        path = tempfile.mkdtemp(prefix=PREFIX, dir=folder)
    except OSError as error:
        raise AppPotError(
            f"cannot write to {folder}: {error.strerror}",
            hint="set APPPOT_TMPDIR to a folder with 1 GiB of free space",
        ) from error
    try:
        os.chmod(path, 0o711)  # noqa: S103
        lock = os.open(os.path.join(path, LOCK), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield path, lock
        finally:
            os.close(lock)
    finally:
        _remove(path)


def sweep(folder: str) -> tuple[str, ...]:
    """Remove this user's workplaces in `folder` whose work is dead; return their paths."""
    removed = []
    with suppress(OSError), os.scandir(folder) as found:
        for entry in found:
            if not entry.name.startswith(PREFIX) or not entry.is_dir(follow_symlinks=False):
                continue
            if entry.stat(follow_symlinks=False).st_uid == os.getuid() and _is_dead(entry.path):
                _remove(entry.path)
                removed.append(entry.path)
    return tuple(removed)


def _is_dead(path: str) -> bool:
    """Tell whether nobody holds a workplace's lock."""
    try:
        lock = os.open(os.path.join(path, LOCK), os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        return False  # just being made, or removed
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(lock)
    return True


def _remove(path: str) -> None:
    """Remove a workplace, also what is of subordinate users in it; the lock last."""
    for name in os.listdir(path):
        if name == LOCK:
            continue
        inner = os.path.join(path, name)
        shutil.rmtree(inner, ignore_errors=True)
        if os.path.isdir(inner):
            with suppress(AppPotError):
                process.run(["mmdebstrap", "--unshare-helper", "rm", "-rf", inner], check=False)
            shutil.rmtree(inner, ignore_errors=True)
    shutil.rmtree(path, ignore_errors=True)
