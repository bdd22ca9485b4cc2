"""Be loaded by each Python whose PYTHONPATH has this folder: its file systems have no locks."""

from __future__ import annotations

import errno
import fcntl
import os


def _flock(*_: object) -> None:
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


fcntl.flock = _flock
