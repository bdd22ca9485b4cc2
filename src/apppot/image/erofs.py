"""Make layers: EROFS files whose bytes depend only on the archive that they are made from."""

from __future__ import annotations

import fcntl
import itertools
import os
import re
import shutil
import signal
import tempfile
from contextlib import suppress
from dataclasses import replace
from enum import StrEnum
from functools import cache, partial
from typing import IO, TYPE_CHECKING

from apppot import process
from apppot.errors import ImageError, KitError
from apppot.image import model, tarstream

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from apppot.image.model import Descriptor
    from apppot.image.tarstream import Normalised
    from apppot.image.writer import Writer

BLOCK_SIZE = 4096
MAGIC = b"\xe2\xe1\xf5\xe0"
MAGIC_OFFSET = 1024
# The same for all layers: a layer is known by its digest, and must not differ by its identifiers.
UUID = "00000000-0000-0000-0000-000000000000"
BUILD_TIME = 0
LAST_LINES = 8
LITTLE_SPACE = 16 << 20
PIECE = tarstream.PIECE
_BIGGER_DISK = "free some space, or set APPPOT_STORE to a folder on a bigger disk"


class Compression(StrEnum):
    """How a layer's files are compressed; docs/decisions tells why `none` is the default."""

    NONE = "none"
    LZ4HC = "lz4hc"
    ZSTD = "zstd"


def arguments(
    program: str,
    target: str,
    compression: Compression = Compression.NONE,
    options: Sequence[str] = (),
) -> list[str]:
    """Return the command that reads a tar archive from standard input and writes a layer."""
    pressing = {
        Compression.NONE: [],
        Compression.LZ4HC: ["-zlz4hc,9", "-C65536"],
        Compression.ZSTD: ["-zzstd,9", "-C65536"],
    }[compression]
    return [
        program,
        "--quiet",
        "--tar=f",
        f"-b{BLOCK_SIZE}",
        f"-U{UUID}",
        f"-T{BUILD_TIME}",
        "--mkfs-time",  # -T is the file system's time: files keep theirs
        *(["--sort=none"] if _has_unsorted(program) else []),  # data is not buffered
        *pressing,
        *options,
        target,
    ]


def mkfs_program() -> str:
    """Return the path of mkfs.erofs: `APPPOT_MKFS_EROFS`, the kit's, else the system's.

    Raises AppPotError if there is none that can read archives.
    """
    from apppot import kit

    named = os.environ.get("APPPOT_MKFS_EROFS", "")
    try:
        return named or kit.find().file(kit.MKFS_EROFS)
    except KitError as error:
        program = shutil.which("mkfs.erofs", path=process.CLEAN_PATH)
        if program and b"--tar" in _help(program):
            return program
        found = f"; {program} is too old (1.7 is needed)" if program else ""
        raise KitError(
            f"there is no mkfs.erofs: {error.message}{found}", hint=error.hint
        ) from error


@cache
def knows(program: str, compressor: str) -> bool:
    """Tell whether a mkfs.erofs can compress by a method."""
    return compressor.encode() in re.findall(rb"[a-z0-9]+", _help(program))


@cache
def _has_unsorted(program: str) -> bool:
    return b"--sort=" in _help(program)


def _help(program: str) -> bytes:
    """Return what a program says about its options."""
    done = process.run([program, "--help"], check=False, timeout=10)
    return done.stdout + done.stderr


def layer(
    writer: Writer,
    archive: IO[bytes],
    *,
    compression: Compression = Compression.NONE,
    without: Callable[[str], bool] | None = None,
    newest: int | None = None,
    below: tuple[int, int] | None = None,
) -> Descriptor:
    """Add a layer made from a seekable tar archive to a store; raises ImageError.

    `without` tells which paths are left out; times after `newest` become that one; for `below` see
    tarstream.normalise. The store sees the layer whole or not at all.
    """
    path = writer.temporary()
    made = make(archive, path, compression=compression, without=without, newest=newest, below=below)
    return replace(writer.take(path, model.LAYER_TYPE), content=made.content)


def make(
    archive: IO[bytes],
    target: str,
    *,
    compression: Compression = Compression.NONE,
    options: Sequence[str] = (),
    without: Callable[[str], bool] | None = None,
    newest: int | None = None,
    below: tuple[int, int] | None = None,
    holes: bool = False,
) -> Normalised:
    """Write a layer made from a seekable tar archive to the file `target`; raises ImageError.

    `options` are more of mkfs.erofs's; for the others see `layer`. With `holes`, the archive has
    some where files have zeros, and so has the layer, if they are the kit's mkfs.erofs's.
    """
    reading = partial(tarstream.normalise, without=without, newest=newest, below=below)
    argv = arguments(mkfs_program(), target, compression, options)
    limit = check_space(archive, target, holes=holes)
    return _made(argv, target, lambda pipe: reading(archive, pipe, limit=limit))


def make_of_flow(source: IO[bytes], target: str) -> Normalised | None:
    """Write a layer made from an archive while it arrives; None if nothing is in it.

    Raises ImageError, and tarflow.DisorderError if the archive has to be read as a whole.
    """
    from apppot.image import tarflow, tarread

    flow = tarflow.Flow(source)
    entries = tarread.entries(flow)
    first = next(entries, None)
    if first is None:
        flow.drain()
        return None
    argv = arguments(mkfs_program(), target)
    _, free = _room(target)
    limit = max((free - LITTLE_SPACE) // 2, 1)
    all_of_them = itertools.chain((first,), entries)
    return _made(argv, target, lambda pipe: tarflow.pass_on(flow, all_of_them, pipe, limit=limit))


def _made(argv: list[str], target: str, write: Callable[[IO[bytes]], Normalised]) -> Normalised:
    """Let `write` give mkfs.erofs its archive; raises ImageError."""
    made: list[Normalised] = []
    with tempfile.TemporaryFile() as output:
        pid, pipe = _start(argv, target, output.fileno())
        code = _feed(pid, pipe, lambda: made.append(write(pipe)))
        if code != 0:
            output.seek(0)
            raise _failure(argv, code, output.read().decode("utf-8", "replace"), target)
    check(target)
    if not made:
        raise ImageError(f"'{argv[0]}' ended before it had read all of the archive")
    return made[0]


def check_space(archive: IO[bytes], target: str, *, holes: bool = False) -> int:
    """Check that there is room for the layer and for mkfs.erofs's copy; raises ImageError.

    Returns the most that the layer's files may have: with sparse ones that is more than the
    archive has. With `holes`, only what the archive occupies counts, and that is no limit (0).

    The kit's mkfs.erofs reports each failure to write (kit/erofs-utils/patches); the system's own
    1.8 does not, so it must not come to that.
    """
    size = archive.seek(0, os.SEEK_END)
    archive.seek(0)
    if holes:
        size = min(size, os.fstat(archive.fileno()).st_blocks * 512)
    needed = 2 * size + LITTLE_SPACE
    folder, free = _room(target)
    if free < needed:
        raise ImageError(
            f"making the layer takes {needed >> 20} MiB in {folder}, and only {free >> 20} MiB"
            " are free",
            hint=_BIGGER_DISK,
        )
    return 0 if holes else max((free - LITTLE_SPACE) // 2, 1)


def _room(target: str) -> tuple[str, int]:
    """Return the folder of a file, and how many bytes are free there."""
    folder = os.path.dirname(os.path.realpath(target))
    found = os.statvfs(folder)
    return folder, found.f_bavail * found.f_frsize


def _start(argv: list[str], target: str, output: int) -> tuple[int, IO[bytes]]:
    """Start mkfs.erofs; return its process id and the pipe that it reads."""
    # It keeps the files' contents in $TMPDIR for a while: they are as big as the layer.
    env = process.clean_environment({"TMPDIR": os.path.dirname(os.path.realpath(target))})
    reader, end = wide_pipe()
    try:
        pid = process.spawn(argv, descriptors={0: reader, 1: output, 2: output}, env=env)
    except BaseException:
        os.close(end)
        raise
    finally:
        os.close(reader)
    return pid, os.fdopen(end, "wb", buffering=PIECE)


def wide_pipe() -> tuple[int, int]:
    """Return the ends of a pipe that holds as much as the system lets it."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    with suppress(OSError):  # where the user's pipes hold all that they may
        fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIECE)
    return reader, writer


def _feed(pid: int, pipe: IO[bytes], write: Callable[[], object]) -> int:
    """Let `write` fill the pipe; return the reader's end status (negative: signal)."""
    try:
        try:
            write()
        finally:
            pipe.close()
    except BrokenPipeError:
        pass  # it ended: badly, or because it needs nothing behind the archive's end
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _failure(argv: list[str], code: int, output: str, target: str) -> ImageError:
    """Return the error for a mkfs.erofs that failed."""
    how = f"was killed by signal {-code}" if code < 0 else f"failed with status {code}"
    lines = [line for line in output.splitlines() if line.strip()]
    said = "\n".join(lines[-LAST_LINES:])
    full = "No space left" in output or _room(target)[1] < LITTLE_SPACE
    return ImageError(
        f"'{argv[0]}' {how}" + (f"\n{said}" if said else ""),
        hint=_BIGGER_DISK if full else "",
    )


def check(path: str) -> None:
    """Check that a file is an EROFS file system with our block size; raises ImageError."""
    try:
        with open(path, "rb") as file:
            file.seek(MAGIC_OFFSET)
            superblock = file.read(16)
    except OSError as error:
        raise ImageError(f"cannot read the layer {path}: {error.strerror}") from error
    if superblock[:4] != MAGIC:
        raise ImageError(f"{path} is not an EROFS file system")
    if 1 << superblock[12] != BLOCK_SIZE:
        raise ImageError(f"{path} has blocks of {1 << superblock[12]} bytes, not {BLOCK_SIZE}")
