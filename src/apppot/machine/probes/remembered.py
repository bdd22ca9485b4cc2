"""Answers that hold for one start of this host: kept in the user's cache, one line each."""

from __future__ import annotations

import os

from apppot import paths
from apppot.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Container

_MOST = 16


def path() -> str:
    """Return the file of answers for this host since its start."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            boot_id = file.read().strip()
    except OSError:
        boot_id = "unknown"
    host = os.uname().nodename.replace("/", "_")
    return os.path.join(paths.cache_dir(), "probes", f"{host}-{boot_id}")


def files_key(files: tuple[str, ...]) -> str:
    """Return what changes when one of the files does; raises OSError if one is not there."""
    parts = []
    for name in files:
        found = os.stat(name)
        parts += [found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns]
    return " ".join(map(str, parts))


def recall(key: str, answers: Container[str]) -> tuple[str, str] | None:
    """Return the answer to `key` with its reason; None if it is not one of `answers`."""
    for line in _lines():
        known, _, rest = line.partition("\t")
        answer, _, reason = rest.partition("\t")
        if known == key and reason and answer in answers:
            return answer, reason
    return None


def remember(key: str, answer: str, reason: str) -> None:
    """Write the answer aside and rename; a cache that cannot be written is no harm."""
    own = path()
    aside = f"{own}.{os.getpid()}"
    others = [line for line in _lines() if line.partition("\t")[0] != key]
    text = "\n".join([*others, f"{key}\t{answer}\t{' '.join(reason.split())}"][-_MOST:]) + "\n"
    try:
        os.makedirs(os.path.dirname(own), mode=0o700, exist_ok=True)
        with open(aside, "w", encoding="utf-8") as file:
            file.write(text)
        os.rename(aside, own)
    except OSError:
        try:
            os.unlink(aside)
        except OSError:
            return


def forget() -> None:
    """Forget all answers for this host."""
    try:
        os.unlink(path())
    except OSError:
        return


def _lines() -> list[str]:
    try:
        with open(path(), encoding="utf-8", errors="replace") as file:
            return file.read(65536).splitlines()
    except OSError:
        return []
