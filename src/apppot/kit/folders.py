"""What building a kit does with folders: list, hash, write, and replace at once."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import shutil
import struct
from typing import TYPE_CHECKING

from apppot import paths
from apppot.errors import KitError
from apppot.kit import MANIFEST
from apppot.kit.manifest import File, Source
from apppot.kit.verify import entry_of, sha256_of

if TYPE_CHECKING:
    from collections.abc import Iterator

AT_FDCWD = -100
RENAME_EXCHANGE = 2
PT_INTERP = 3


def files(folder: str) -> list[str]:
    """Return the names of all files below `folder`, relative to it, sorted."""
    found = []
    for path, _, names in os.walk(folder):
        found += [os.path.relpath(os.path.join(path, name), folder) for name in names]
    return sorted(found)


def entries(folder: str) -> dict[str, File]:
    """Return what a manifest says of all files below `folder`."""
    return {name: entry_of(os.path.join(folder, name)) for name in files(folder)}


def digests(folder: str, only: tuple[str, ...] = ()) -> list[tuple[str, str]]:
    """Return names and SHA-256 digests of the files below `folder`, or of those in `only`."""
    names = only or [name for name in files(folder) if not name.endswith((".pyc", ".pyo"))]
    return [(name, sha256_of(os.path.join(folder, name))) for name in names]


def recipes_digest() -> str:
    """Return the digest of all that this AppPot brings to the building of a kit."""
    base, code = paths.recipes_dir(), os.path.dirname(__file__)
    parts = (
        digests(os.path.join(base, "kit")),
        [(each.file, each.sha256) for each in own_sources(os.path.join(base, "guest"))],
        digests(code, ("job.py", "cpio.py")),
        digests(os.path.join(code, "recipes")),
    )
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def own_sources(guest: str) -> tuple[Source, ...]:
    """Return the project's own sources, headers and Makefile as a component's sources."""
    present = sorted(os.listdir(guest))
    endings = (".c", ".h", ".S", ".ld")
    names = tuple(name for name in present if name.endswith(endings) or name == "Makefile")
    return tuple(Source("apppot", name, digest) for name, digest in digests(guest, names))


def write(path: str, text: str) -> None:
    """Write a text file and make sure that it is on disk."""
    with open(path, "w", encoding="utf-8") as stream:
        stream.write(text)
    os.chmod(path, 0o644)
    sync(path)


def sync(path: str) -> None:
    """Make sure that a file or folder is on disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def check_replaceable(output: str) -> None:
    """Raise KitError if a kit must not or cannot be put at `output`."""
    if os.path.lexists(output):
        if not os.path.isdir(output):
            raise KitError(f"{output} is not a folder", hint="name another with --output")
        if os.listdir(output) and not os.path.exists(os.path.join(output, MANIFEST)):
            raise KitError(
                f"{output} has files in it and is not a kit; it will not be replaced",
                hint="name a new or an empty folder with --output",
            )
    try:
        os.makedirs(os.path.dirname(output), exist_ok=True)
        usable = os.access(os.path.dirname(output), os.W_OK | os.X_OK)
        what = "no permission"
    except OSError as error:
        usable, what = False, error.strerror or str(error)
    if not usable:
        raise KitError(
            f"cannot write the kit to {output}: {what}", hint="name another folder with --output"
        )


@contextlib.contextmanager
def replacing(output: str) -> Iterator[str]:
    """Give a folder beside `output` that takes its place at once if nothing is raised."""
    parent, base = os.path.split(output)
    _remove_left(parent, base)
    aside = os.path.join(parent, f".{base}.new-{os.getpid()}")
    os.mkdir(aside, 0o755)
    try:
        yield aside
        take_place(aside, output)
        sync(parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _remove_left(parent: str, base: str) -> None:
    """Remove what builds that were killed have left beside `output`."""
    prefix = f".{base}.new-"
    for name in os.listdir(parent):
        number = name.removeprefix(prefix)
        if name.startswith(prefix) and number.isdigit() and not os.path.exists(f"/proc/{number}"):
            shutil.rmtree(os.path.join(parent, name), ignore_errors=True)


def take_place(new: str, old: str) -> None:
    """Exchange two folders in one step; `new` then holds what was at `old`, if anything."""
    if not os.path.exists(old):
        os.rename(new, old)
        return
    libc = ctypes.CDLL(None, use_errno=True)
    done = libc.renameat2(
        AT_FDCWD, os.fsencode(new), AT_FDCWD, os.fsencode(old), ctypes.c_uint(RENAME_EXCHANGE)
    )
    if done != 0:  # a file system without it: two steps, with a moment in between
        middle = f"{new}.old"
        os.rename(old, middle)
        os.rename(new, old)
        shutil.rmtree(middle, ignore_errors=True)


def needs_loader(path: str) -> bool:
    """Tell whether a file is an x86_64 ELF program that needs a dynamic loader (PT_INTERP)."""
    with open(path, "rb") as stream:
        head = stream.read(64)
        if len(head) < 64 or head[:5] != b"\x7fELF\x02":  # noqa: PLR2004  64-bit header's size
            return False
        offset, size, count = (
            struct.unpack_from("<Q", head, 32)[0],
            *struct.unpack_from("<HH", head, 54),
        )
        stream.seek(offset)
        table = stream.read(size * count)
    return any(
        struct.unpack_from("<I", table, start)[0] == PT_INTERP
        for start in range(0, len(table) - 3, size)
    )
