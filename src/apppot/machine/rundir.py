"""The folder of one running machine: made, locked, listed, and swept up when its owner died."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os

from apppot import paths
from apppot.errors import AppPotError, UsageError
from apppot.lean import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

RECORD = "machine.json"
CONSOLE = "console.log"
CONTROL = "control"
UNDO = "undo.json"  # what is to be done besides, see undo.py


class RunDir:
    """A machine's folder; whoever holds the lock on it is alive."""

    def __init__(self, path: str, lock: int) -> None:
        self.path = path
        self.ident = os.path.basename(path)
        self._lock = lock

    @classmethod
    def make(cls) -> RunDir:
        """Make a folder with a new name and lock it."""
        base = paths.runtime_dir()
        while True:
            path = os.path.join(base, os.urandom(4).hex())
            try:
                os.mkdir(path, 0o700)
            except FileExistsError:
                continue
            try:
                lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                continue  # a sweep took it for a leftover in the moment before
            fcntl.flock(lock, fcntl.LOCK_EX)
            if _same(lock, path):  # else a sweep was quicker
                return cls(path, lock)
            os.close(lock)

    def file(self, name: str) -> str:
        """Return the path of a file in the folder."""
        return os.path.join(self.path, name)

    def record(self, facts: dict[str, Any]) -> None:
        """Write what other processes may know of this machine."""
        aside = self.file(RECORD + ".new")
        with open(aside, "w", encoding="utf-8") as file:
            json.dump(facts, file)
        os.rename(aside, self.file(RECORD))

    def __enter__(self) -> RunDir:  # noqa: PYI034
        """Nothing to do: the folder is there since `make`."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove the folder."""
        _remove(self.path)
        os.close(self._lock)


@dataclass(frozen=True)
class Listed:
    """A running machine, as seen by another process of the same user."""

    ident: str
    path: str
    facts: dict[str, Any]

    def file(self, name: str) -> str:
        """Return the path of a file in the machine's folder."""
        return os.path.join(self.path, name)


def machines() -> list[Listed]:
    """Return the running machines of this user on this host, the oldest first."""
    found = []
    for path in _folders():
        if _abandoned(path) is not None:
            continue
        try:
            with open(os.path.join(path, RECORD), encoding="utf-8") as file:
                facts = json.load(file)
        except (OSError, ValueError):
            continue  # just being made, or just gone
        found.append(Listed(os.path.basename(path), path, facts))
    return sorted(found, key=lambda machine: float(machine.facts.get("started", 0)))


def select(name: str) -> Listed:
    """Return the machine whose identifier begins with `name`; raises UsageError."""
    running = machines()
    matching = [machine for machine in running if machine.ident.startswith(name)]
    if len(matching) == 1:
        return matching[0]
    if matching:
        raise UsageError(
            f"'{name}' fits {len(matching)} machines: " + ", ".join(m.ident for m in matching),
            hint="give more of the identifier",
        )
    names = ", ".join(machine.ident for machine in running)
    raise UsageError(
        f"no machine '{name}' is running",
        hint=f"running: {names}" if names else "no machine of yours is running on this host",
    )


def sweep() -> list[str]:
    """Remove the folders whose owners died; return the identifiers."""
    removed = []
    for path in _folders():
        lock = _abandoned(path, keep=True)
        if lock is None:
            continue
        if os.path.exists(os.path.join(path, UNDO)):
            from apppot.machine import undo

            undo.act(path)
        _remove(path)
        os.close(lock)
        removed.append(os.path.basename(path))
    return removed


def _folders() -> Iterator[str]:
    try:
        base = paths.runtime_dir()
        names = sorted(os.listdir(base))
    except (OSError, AppPotError):
        return
    for name in names:
        if len(name) == 8 and all(c in "0123456789abcdef" for c in name):  # noqa: PLR2004
            yield os.path.join(base, name)


def _abandoned(path: str, *, keep: bool = False) -> int | None:
    """Return a lock on a folder that nobody holds (closed unless `keep`), or None."""
    try:
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(lock)
        return None
    if not keep:
        os.close(lock)
    return lock


def _remove(folder: str) -> None:
    """Remove a folder with all that is in it, as far as that is allowed.

    Not shutil.rmtree: loading it takes longer than everything else that is done at a run's end.
    Nobody but the owner can write to such a folder, so that no one can play tricks with links.
    """
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(folder)):
            with contextlib.suppress(OSError):
                if entry.is_dir(follow_symlinks=False):
                    _remove(entry.path)
                else:
                    os.unlink(entry.path)
        os.rmdir(folder)


def _same(descriptor: int, path: str) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), os.stat(path))
    except OSError:
        return False


@contextlib.contextmanager
def control_address(folder: str) -> Iterator[str]:
    """Name the socket of a folder in less than the 108 bytes that unix(7) allows."""
    descriptor = os.open(folder, os.O_PATH | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{descriptor}/{CONTROL}"
    finally:
        os.close(descriptor)
