"""Small things that the probes share: the C library's calls, and system files."""

from __future__ import annotations

import ctypes
import os

# Numbers of x86-64, the only architecture of the kit.
SYS_GETPPID = 110
SYS_SECCOMP = 317
SYS_QUOTACTL_FD = 443
SYS_LANDLOCK_CREATE_RULESET = 444
SYS_LANDLOCK_RESTRICT_SELF = 446

_libc: ctypes.CDLL | None = None


def libc() -> ctypes.CDLL:
    """Return the C library that this process already has."""
    global _libc  # noqa: PLW0603  opened once
    if _libc is None:
        _libc = ctypes.CDLL(None, use_errno=True)
        _libc.syscall.restype = ctypes.c_long
        _libc.ptrace.restype = ctypes.c_long
    return _libc


def syscall(number: int, *arguments: object) -> int:
    """Make a system call; raises OSError. Integers are passed as long."""
    words = [ctypes.c_long(word) if isinstance(word, int) else word for word in arguments]
    return checked(libc().syscall(ctypes.c_long(number), *words))


def checked(result: int) -> int:
    """Return a C call's result; raises OSError from errno if it is -1."""
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def text(path: str) -> str:
    """Return a small system file's text; "" if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read(1 << 20).strip()
    except OSError:
        return ""


def number(path: str) -> int | None:
    """Return the number in a small system file, or None."""
    word = text(path)
    return int(word) if word.isascii() and word.isdecimal() else None


def writable(record: bytearray) -> ctypes.Array[ctypes.c_char]:
    """Return `record` as an argument that a system call may write to."""
    return (ctypes.c_char * len(record)).from_buffer(record)
