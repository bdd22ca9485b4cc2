"""Locks of a store's writers: flock where it works, else files that only one can make.

Readers take none. The system ends a flock with its holder. On a file system without locks, or where
they reach one host only, a lock is a file in the store's folder `leases`:

* `NAME.NUMBER` is held alone by whoever made it, until `free` is written into it. The highest
  number counts. Whoever finds it free, or its holder dead, makes the next number, which only one
  can, and then looks again: if there is a still higher one, it came too late. So no file of a
  living holder is ever taken away by someone who judged about the one before.
* `NAME-RANDOM` is one of those who share it. It is made, and found missing, by whoever holds the
  lock alone for this moment.

A holder is dead at once if it was a process of this host that is no more. Of other hosts (or of
other containers) it is if its file has not been touched for STALE seconds by the file system's own
clock: holders touch theirs every BEAT seconds. One that was halted for longer and then goes on
finds with `check` that its lock is lost.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import random
import secrets
import socket
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from apppot.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FOLDER = "leases"
ASIDE = ".tmp-"
BEAT = 15.0
STALE = 180.0
MOUNTS = "/proc/self/mountinfo"
FREE = b"free\n"
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL})
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL})
# Mounts whose locks keep out this host's processes only.
_LOCAL_TYPES = frozenset({"fuse.sshfs", "9p", "virtiofs"})
_LOCAL_OPTIONS = frozenset({"nolock", "nobrl", "local_lock=all", "local_lock=flock", "localflock"})


class Held:
    """A lock that is held; `check` raises ImageError if it is not any more."""

    def __init__(self, check: Callable[[], bool] | None = None) -> None:
        self._check = check

    def check(self) -> None:
        """Make sure that the lock was not taken away from a process that had been halted."""
        if self._check and not self._check():
            raise ImageError(
                "this process was halted for so long that its lock on the store went to another",
                hint="nothing was lost: start it again",
            )


@contextmanager
def held(store: str, name: str, *, shared: bool = False, wait: bool = True) -> Iterator[Held]:
    """Hold the lock `name` of a store's folder.

    Raises BlockingIOError if another has it and `wait` is not set, and OSError.
    """
    leases = os.path.join(store, FOLDER)
    descriptor = -1
    if not os.path.isdir(leases):
        descriptor = _flock(store, name, shared=shared, wait=wait)
        if descriptor < 0:
            os.makedirs(leases, exist_ok=True)
    if descriptor >= 0:
        try:
            yield Held()
        finally:
            os.close(descriptor)
        return
    hold = _share if shared else _alone
    with hold(leases, name, wait=wait) as lock:
        yield lock


def _flock(store: str, name: str, *, shared: bool, wait: bool) -> int:
    """Return the descriptor that has the lock, -1 if the file system has none; raises OSError."""
    if _local_only(store):
        return -1
    how = (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | (0 if wait else fcntl.LOCK_NB)
    handle = os.open(os.path.join(store, name), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(handle, how)
    except OSError as error:
        os.close(handle)
        if error.errno in _NO_LOCKS:
            return -1
        raise
    except BaseException:
        os.close(handle)
        raise
    return handle


def _local_only(store: str) -> bool:
    """Tell whether a lock there would keep out the processes of this host only."""
    device = os.stat(store).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    try:
        with open(MOUNTS, encoding="utf-8", errors="replace") as file:
            lines = [line.split() for line in file]
    except OSError:
        return False
    for words in lines:
        if words[2:3] == [number] and "-" in words:
            kind = words[words.index("-") + 1]
            return kind in _LOCAL_TYPES or not _LOCAL_OPTIONS.isdisjoint(words[-1].split(","))
    return False


@dataclass(frozen=True)
class _Owner:
    """Who holds a lock. Process ids only tell something in the same boot and namespace."""

    host: str
    boot: str
    namespace: str
    pid: int
    start: str
    token: str

    @classmethod
    def me(cls) -> _Owner:
        boot, namespace = _here()
        pid = os.getpid()
        return cls(socket.gethostname(), boot, namespace, pid, _start(pid), secrets.token_hex(8))

    @classmethod
    def read(cls, data: bytes) -> _Owner | None:
        """Return the owner that a lock's file names; None if it is no owner."""
        try:
            return cls(**json.loads(data))
        except (ValueError, TypeError, RecursionError):
            return None

    def data(self) -> bytes:
        return (json.dumps(self.__dict__) + "\n").encode()


def _here() -> tuple[str, str]:
    """Return what tells this boot and this process namespace from all others; '' if unknown."""
    with suppress(OSError), open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip(), os.readlink("/proc/self/ns/pid")
    return "", ""


def _start(pid: int) -> str:
    """Return when a process was started, in the kernel's ticks; '' if that is hidden."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            words = file.read().rpartition(b")")[2].split()
    except OSError:
        return ""
    return "ended" if words[0] in (b"Z", b"X") else words[19].decode()


def _dead(path: str, now: float | None = None) -> bool:
    """Tell whether the holder of a lock's file is dead, or has let it go; raises OSError.

    Without `now` the file system's clock counts, for which a file must be made.
    """
    try:
        with open(path, "rb") as file:
            data = file.read(4096)
            touched = os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return True
    if data.startswith(FREE):
        return True
    owner = _Owner.read(data)
    here = _here()
    if owner and here[0] and (owner.boot, owner.namespace) == here:
        try:
            os.kill(owner.pid, 0)
        except ProcessLookupError:
            return True
        except (OSError, OverflowError):
            pass  # another user's: it is alive, or its number is used again
        found = _start(owner.pid)
        if found:
            return found != owner.start
    return (_now(os.path.dirname(path)) if now is None else now) - touched > STALE


def _now(folder: str) -> float:
    """Return the time by the clock of the file system, which others' files are dated by."""
    path = os.path.join(folder, ASIDE + secrets.token_hex(8))
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        return os.fstat(handle).st_mtime
    finally:
        os.close(handle)
        os.unlink(path)


def _numbers(leases: str, name: str) -> list[int]:
    """Return the numbers of a lock's files, lowest first.

    Each once: a folder that changes while it is read may give an entry twice.
    """
    begin = name + "."
    found = {entry[len(begin) :] for entry in os.listdir(leases) if entry.startswith(begin)}
    return sorted(int(number) for number in found if number.isdecimal() and number.isascii())


def _create(path: str, data: bytes) -> bool:
    """Make a file with this content if it is not there; tell whether this call has made it."""
    aside = os.path.join(os.path.dirname(path), ASIDE + secrets.token_hex(8))
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        _fill(os.open(aside, flags, 0o666), data)
        try:
            os.link(aside, path)
        except FileExistsError:
            # NFS: the first answer may have been lost, and this is that of the repeated request.
            return os.stat(aside).st_nlink == 2  # noqa: PLR2004
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            try:
                _fill(os.open(path, flags, 0o666), data)
            except FileExistsError:
                return False
        return True
    finally:
        with suppress(FileNotFoundError):
            os.unlink(aside)


def _fill(handle: int, data: bytes) -> None:
    try:
        os.write(handle, data)
    finally:
        os.close(handle)


@contextmanager
def _alone(leases: str, name: str, *, wait: bool) -> Iterator[Held]:
    """Hold a lock alone: no other has it so, and no one shares it."""
    pause = _Pause()
    while True:
        with _turn(leases, name, wait=wait) as lock:
            if not _sharers(leases, name):
                yield lock
                return
        if not wait:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        pause()


@contextmanager
def _share(leases: str, name: str, *, wait: bool) -> Iterator[Held]:
    """Hold a lock together with others."""
    owner = _Owner.me()
    path = os.path.join(leases, f"{name}-{owner.token}")
    with _turn(leases, name, wait=wait):
        if not _create(path, owner.data()):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
    try:
        with _beating(path):
            yield Held(lambda: os.path.exists(path))
    finally:
        with suppress(FileNotFoundError):
            os.unlink(path)


def _sharers(leases: str, name: str) -> bool:
    """Tell whether someone alive shares a lock; the files of the dead are removed."""
    found = False
    for entry in os.listdir(leases):
        if entry.startswith(name + "-"):
            path = os.path.join(leases, entry)
            if _dead(path):
                with suppress(FileNotFoundError):
                    os.unlink(path)
            else:
                found = True
    return found


@contextmanager
def _turn(leases: str, name: str, *, wait: bool) -> Iterator[Held]:
    """Hold the file with a lock's highest number."""
    owner, pause = _Owner.me(), _Pause()
    while True:
        number = _take(leases, name, owner)
        if number:
            break
        if not wait:
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        pause()
    path = os.path.join(leases, f"{name}.{number}")
    mine = owner.data()

    def still() -> bool:
        with suppress(OSError), open(path, "rb") as file:
            return file.read(4096) == mine and _numbers(leases, name)[-1] == number
        return False

    try:
        with _beating(path):
            yield Held(still)
    finally:
        with suppress(OSError):
            if still():  # else it is someone else's business
                _fill(os.open(path, os.O_WRONLY | os.O_CLOEXEC), FREE)


def _take(leases: str, name: str, owner: _Owner) -> int:
    """Return the number of the file that is now held, 0 if another is."""
    numbers = _numbers(leases, name)
    last = numbers[-1] if numbers else 0
    if last and not _dead(os.path.join(leases, f"{name}.{last}")):
        return 0
    number = last + 1
    path = os.path.join(leases, f"{name}.{number}")
    if not _create(path, owner.data()):
        return 0
    numbers = _numbers(leases, name)
    if numbers[-1:] != [number]:  # it was this number's turn long ago
        with suppress(FileNotFoundError):
            os.unlink(path)
        return 0
    for old in numbers[:-1]:
        with suppress(FileNotFoundError):
            os.unlink(os.path.join(leases, f"{name}.{old}"))
    return number


class _Pause:
    """Sleep, each time longer, and never in step with others."""

    def __init__(self) -> None:
        self._most = 0.004

    def __call__(self) -> None:
        time.sleep(random.uniform(0.001, self._most))  # noqa: S311  no secret
        self._most = min(self._most * 1.5, 0.25)


@contextmanager
def _beating(path: str) -> Iterator[None]:
    """Touch a lock's file from time to time, so that other hosts see that its holder lives."""
    end = threading.Event()

    def beat() -> None:
        while not end.wait(BEAT):
            with suppress(OSError):
                os.utime(path)

    thread = threading.Thread(target=beat, name="lease", daemon=True)
    thread.start()
    try:
        yield
    finally:
        end.set()
        thread.join()


def leftovers(store: str, now: float | None = None) -> list[str]:
    """Return the files of dead holders in a store; raises OSError.

    With `now`, by this host's clock, nothing is written. A lock's highest number stays, so that its
    numbers never begin anew.
    """
    leases = os.path.join(store, FOLDER)
    if not os.path.isdir(leases):
        return []
    names = sorted(os.listdir(leases))
    asides = [n for n in names if n.startswith(ASIDE)]
    sharers = [n for n in names if "-" in n and n not in asides]
    return [path for name in (*asides, *sharers) if _dead(path := os.path.join(leases, name), now)]
