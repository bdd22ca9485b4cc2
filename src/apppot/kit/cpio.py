"""Write initramfs archives: cpio in the kernel's "newc" format, the same bytes for the same input.

The format is described in the kernel's Documentation/driver-api/early-userspace/buffer-format.rst.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

MAGIC = b"070701"
TRAILER = "TRAILER!!!"
BLOCK = 512
FIELD_MAX = 0xFFFFFFFF


@dataclass(frozen=True)
class Entry:
    """One member: `mode` carries the file type; owner is root, time is 0."""

    name: str
    mode: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(name: str, mode: int = 0o755) -> Entry:
    """Return a folder."""
    return Entry(name, stat.S_IFDIR | mode)


def regular(name: str, data: bytes, mode: int = 0o644) -> Entry:
    """Return a file with its content."""
    return Entry(name, stat.S_IFREG | mode, data)


def symlink(name: str, target: str) -> Entry:
    """Return a symbolic link."""
    return Entry(name, stat.S_IFLNK | 0o777, target.encode())


def character_device(name: str, major: int, minor: int, mode: int = 0o600) -> Entry:
    """Return a character device's node."""
    return Entry(name, stat.S_IFCHR | mode, device=(major, minor))


def archive(entries: Iterable[Entry]) -> bytes:
    """Return the archive with `entries` in the order of their names, so that folders come first.

    Raises ValueError for a name or a size that the format cannot hold, and for a name given twice.
    """
    ordered = sorted(entries, key=lambda entry: entry.name)
    names = [entry.name for entry in ordered]
    if len(set(names)) != len(names):
        raise ValueError(f"a name is given twice: {names}")
    parts = []
    for inode, entry in enumerate(ordered, start=1):
        _check(entry)
        parts.append(_member(entry, inode))
    parts.append(_member(Entry(TRAILER, 0), 0))
    return _padded(b"".join(parts), BLOCK)


def _check(entry: Entry) -> None:
    name = entry.name
    if not name or name == TRAILER or name.startswith("/") or "\0" in name or ".." in name:
        raise ValueError(f"{name!r} cannot be a member's name")
    if len(entry.data) > FIELD_MAX:
        raise ValueError(f"{name!r} is too large for the format")


def _member(entry: Entry, inode: int) -> bytes:
    name = entry.name.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (
        *(inode, entry.mode, 0, 0, links, 0, len(entry.data)),
        *(0, 0, *entry.device, len(name), 0),
    )
    head = MAGIC + b"".join(b"%08X" % value for value in fields) + name
    return _padded(head, 4) + _padded(entry.data, 4)


def _padded(data: bytes, to: int) -> bytes:
    return data + b"\0" * (-len(data) % to)
