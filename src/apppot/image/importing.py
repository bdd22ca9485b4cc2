"""Make an image of a root file system: a tar archive, a folder, squashfs, or an Apptainer SIF."""

from __future__ import annotations

import json
import os
import platform
import re
import stat
import struct
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from apppot.errors import ImageError
from apppot.image import (
    arrival,
    aside,
    compressed,
    erofs,
    inputs,
    reference,
    tarread,
    tarwrite,
    writer,
)
from apppot.image.model import DEFAULT_PATH, Layer
from apppot.image.saving import now
from apppot.image.store import BLOBS, stores
from apppot.image.tarread import (
    BLOCK,
    BLOCK_DEVICE,
    CHARACTER,
    FIFO,
    FILE,
    FOLDER,
    HARD_LINK,
    SYMLINK,
    Entry,
    Source,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SQUASHFS_MAGIC = b"hsqs"
READ_AT_ONCE = 1024  # bytes: what Linux's squashfs reads is in such blocks
SQUASHFS_SIZE = 96  # of its superblock
SIF_MAGIC = b"SIF_MAGIC\0"
SIF_MAGIC_AT = 32
SIF_RUN = "/.singularity.d/runscript"
_SIF_HEADER = struct.Struct("<32x10s3x3x16x8q")
_SIF_ROW = struct.Struct("<i?III7q128s384s")
_SIF_PARTITION, _SIF_SQUASHFS, _SIF_PRIMARY = 0x4004, 1, 2
_SIF_MOST_ROWS = 4096
# What is first in an archive of images.
_LISTS = frozenset((b"oci-layout", b"manifest.json"))
_OF_IMAGES = re.compile(rb"blobs|oci-layout|index\.json|manifest\.json|repositories|[0-9a-f]{64}")
_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


@dataclass(frozen=True)
class Settings:
    """How the image wants to be run."""

    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""


@dataclass(frozen=True)
class Imported:
    """A new image."""

    name: str
    digest: str
    size: int


def import_(
    path: str,
    name: str,
    settings: Settings,
    *,
    replace: bool = False,
    step: Callable[[str], None] = lambda _: None,
) -> Imported:
    """Make an image of the root file system at `path`; raises AppPotError."""
    full = reference.parse_name(name).full
    store = stores()[0]
    erofs.mkfs_program()
    with store.writer() as adding:
        if not replace and any(entry.reference == full for entry in store.entries()):
            raise writer.exists(full, store)
        folder = os.path.join(store.path, BLOBS)
        with adding.nameless() as room:
            archive, run = _archive(path, room, folder, step)
            with archive:
                step("making the layer")
                layer = erofs.layer(adding, archive)
        config = _configuration(settings, run, layer.content, os.path.basename(path))
        digest = arrival.add_image(adding, full, [layer], config, {}, replace_=replace)
    return Imported(full, digest, layer.size)


def _archive(
    path: str, room: IO[bytes], folder: str, step: Callable[[str], None]
) -> tuple[IO[bytes], tuple[str, ...]]:
    """Return the file system as an archive, in `room` if need be, and what it runs by itself."""
    if os.path.isdir(path):
        step(f"reading {path}")
        pack(path, room)
        return room, ()
    file = inputs.opened(path, folder)
    if _is_erofs(file):
        with file:
            step("archiving it in a machine")
            _unpacked(file, 0, file.seek(0, os.SEEK_END), "", room)
        return room, ()
    file.seek(0)
    begin = file.read(SIF_MAGIC_AT + len(SIF_MAGIC))
    is_sif = begin[SIF_MAGIC_AT:] == SIF_MAGIC
    if not is_sif and not begin.startswith(SQUASHFS_MAGIC):
        step(f"reading {path}")
        plain = compressed.plain_file(file, folder)
        _check_archive(plain, path)
        if plain is not file:
            file.close()
        return plain, ()
    with file:
        offset = sif_partition(file, path) if is_sif else 0
        size = squashfs_size(file, offset, path)
        step("archiving it in a machine")
        _unpacked(file, offset, size, "squashfs", room)
    return room, (SIF_RUN,) if is_sif else ()


def _unpacked(file: IO[bytes], offset: int, size: int, kind: str, room: IO[bytes]) -> None:
    """Let a machine archive a file system; `kind` is '' for EROFS."""
    from apppot import worker

    layer = Layer("", size, aside.path_of(file), offset=offset, type=kind)
    worker.archive((layer,), ("layer", "0"), room.fileno())


def _is_erofs(file: IO[bytes]) -> bool:
    file.seek(erofs.MAGIC_OFFSET)
    return file.read(len(erofs.MAGIC)) == erofs.MAGIC


def _check_archive(file: IO[bytes], path: str) -> None:
    """Refuse what only begins as an archive without files does; raises ImageError."""
    file.seek(0)
    if not file.read(BLOCK).strip(b"\0"):
        raise ImageError(
            f"{path} has no files: it is no archive of a root file system",
            hint=f"if it is a disk image, run it as it is: apppot run ./{os.path.basename(path)}",
        )
    file.seek(0)
    if _has_images(file):
        raise ImageError(
            f"{path} is an archive of images, not of a root file system",
            hint=f"take them in with 'apppot load {path}'",
        )
    file.seek(0)


def _has_images(file: IO[bytes]) -> bool:
    """Tell whether an archive is what 'save' writes: ours, or that of Docker or skopeo."""
    with suppress(ImageError):  # who makes the layer tells of damage
        paths = (name.removeprefix(b"./") for name, _ in tarread.entries(Source(file)))
        names = (path for path in paths if path not in {b"", b"."})
        first = next(names, b"")
        return bool(_OF_IMAGES.match(first)) and (first in _LISTS or not _LISTS.isdisjoint(names))
    return False


def squashfs_size(file: IO[bytes], offset: int, path: str) -> int:
    """Return the size of the squashfs at `offset`, in blocks of Linux; raises ImageError."""
    file.seek(offset)
    data = file.read(SQUASHFS_SIZE)
    if len(data) < SQUASHFS_SIZE or not data.startswith(SQUASHFS_MAGIC):
        raise ImageError(f"{path} has no squashfs where it should be")
    size: int = struct.unpack_from("<Q", data, 40)[0]
    there = file.seek(0, os.SEEK_END) - offset
    if size > there:
        raise ImageError(f"{path} ends too early: its squashfs should have {size} bytes")
    if size % READ_AT_ONCE:  # what makes them fills up to 4096 bytes
        size += -size % READ_AT_ONCE
        if size > there:
            raise ImageError(
                f"{path} ends within a block of {READ_AT_ONCE} bytes",
                hint=f"copy it, and fill the copy up: truncate -s %{READ_AT_ONCE} FILE",
            )
    return size


def sif_partition(file: IO[bytes], path: str) -> int:
    """Return where the primary squashfs of a SIF file begins; raises ImageError."""
    size = file.seek(0, os.SEEK_END)
    file.seek(0)
    data = file.read(_SIF_HEADER.size)
    if len(data) < _SIF_HEADER.size:
        raise ImageError(f"{path} is not a whole SIF file")
    total, begin = _SIF_HEADER.unpack(data)[4:6]
    if not (0 <= total <= _SIF_MOST_ROWS and 0 < begin <= size - total * _SIF_ROW.size):
        raise ImageError(f"{path} is a damaged SIF file: its table lies outside of it")
    file.seek(begin)
    for _ in range(total):
        row = _SIF_ROW.unpack(file.read(_SIF_ROW.size))
        kind, used, offset, extra = row[0], row[1], row[5], row[-1]
        filesystem, part = struct.unpack_from("<ii", extra)
        if not used or kind != _SIF_PARTITION or part != _SIF_PRIMARY:
            continue
        if filesystem != _SIF_SQUASHFS:
            raise ImageError(
                f"the system in {path} is not a squashfs (its type is {filesystem}): encrypted"
                " and writable ones cannot be imported"
            )
        if not 0 < offset < size:
            raise ImageError(f"{path} is a damaged SIF file: its system lies outside of it")
        return int(offset)
    raise ImageError(f"{path} is a SIF file without a system in it")


def _configuration(settings: Settings, run: tuple[str, ...], content: str, source: str) -> bytes:
    """Return the image's configuration."""
    machine = platform.machine()
    env = settings.env
    if not any(each.startswith("PATH=") for each in env):
        env = (f"PATH={DEFAULT_PATH}", *env)
    cmd = settings.cmd or (() if settings.entrypoint else run)
    inner: dict[str, Any] = {
        "Env": list(env),
        "Entrypoint": list(settings.entrypoint),
        "Cmd": list(cmd),
        "WorkingDir": settings.working_dir,
        "User": settings.user,
    }
    created = now()
    document = {
        "created": created,
        "architecture": _ARCHITECTURES.get(machine, machine),
        "os": "linux",
        "config": {key: value for key, value in inner.items() if value},
        "rootfs": {"type": "layers", "diff_ids": [content]},
        "history": [{"created": created, "created_by": f"apppot import {source}"}],
    }
    return json.dumps(document, sort_keys=True).encode()


# --- folders -------------------------------------------------------------------------------------

_KINDS = {
    stat.S_IFREG: FILE,
    stat.S_IFDIR: FOLDER,
    stat.S_IFLNK: SYMLINK,
    stat.S_IFCHR: CHARACTER,
    stat.S_IFBLK: BLOCK_DEVICE,
    stat.S_IFIFO: FIFO,
}


def pack(folder: str, target: IO[bytes]) -> None:
    """Write a folder's contents as an archive; sockets are left out. Raises ImageError."""
    seen: dict[tuple[int, int], bytes] = {}
    root = os.fsencode(folder)
    for path in _walk(root):
        name = os.path.relpath(path, root)
        try:
            entry = _entry(path, name, seen)
            if entry is None:
                continue
            target.write(tarwrite.headers(name, entry))
            if entry.kind == FILE and entry.size:
                _copy(path, entry.size, target)
        except OSError as error:
            raise ImageError(
                f"cannot read {os.fsdecode(path)}: {error.strerror}",
                hint="a system with files of several users: make a tar archive of it as root",
            ) from error
    target.write(tarwrite.END)
    target.flush()


def _walk(root: bytes) -> Iterator[bytes]:
    def fail(error: OSError) -> None:
        name = os.fsdecode(error.filename or root)
        raise ImageError(f"cannot read {name}: {error.strerror}") from error

    yield root
    for place, folders, files in os.walk(root, onerror=fail):
        folders.sort()
        for name in sorted((*folders, *files)):
            yield os.path.join(place, name)


def _entry(path: bytes, name: bytes, seen: dict[tuple[int, int], bytes]) -> Entry | None:
    """Return a file's entry; None for a socket."""
    found = os.lstat(path)
    kind = _KINDS.get(stat.S_IFMT(found.st_mode))
    if kind is None:
        return None
    if kind != FOLDER and found.st_nlink > 1:
        first = seen.setdefault((found.st_dev, found.st_ino), name)
        if first != name:
            return Entry(HARD_LINK, link=first)
    seconds, nanoseconds = divmod(found.st_mtime_ns, 10**9)
    entry = Entry(
        kind, stat.S_IMODE(found.st_mode), found.st_uid, found.st_gid, seconds, nanoseconds
    )
    if kind == FILE:
        entry.size = found.st_size
    elif kind == SYMLINK:
        entry.link = os.readlink(path)
    elif kind in {CHARACTER, BLOCK_DEVICE}:
        entry.device = os.major(found.st_rdev), os.minor(found.st_rdev)
    entry.xattrs = _xattrs(path)
    return entry


def _xattrs(path: bytes) -> tuple[tuple[bytes, bytes], ...]:
    """Return a file's extended attributes, as far as this user may see them."""
    try:
        names = os.listxattr(path, follow_symlinks=False)
        return tuple(
            sorted(
                (os.fsencode(name), os.getxattr(path, name, follow_symlinks=False))
                for name in names
            )
        )
    except OSError:
        return ()


def _copy(path: bytes, size: int, target: IO[bytes]) -> None:
    left = size
    with open(path, "rb", buffering=0) as file:
        while left > 0 and (piece := file.read(min(left, compressed.PIECE))):
            target.write(piece)
            left -= len(piece)
    if left:
        raise ImageError(f"{os.fsdecode(path)} became smaller while it was read")
    target.write(tarwrite.padding(size))
