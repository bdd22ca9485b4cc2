"""Decompress streams of every form that layers come in, never more at once than a piece."""

from __future__ import annotations

import bz2
import lzma
import os
import sys
import zlib
from typing import IO, TYPE_CHECKING, Any

from apppot.errors import ImageError
from apppot.image import writer

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

PIECE = 1 << 20
GZIP, ZSTD, XZ, BZIP2 = b"\x1f\x8b", b"\x28\xb5\x2f\xfd", b"\xfd7zXZ\0", b"BZh"
_SKIPPABLE = tuple(bytes([n]) + b"\x2a\x4d\x18" for n in range(0x50, 0x60))
_LONGEST_MAGIC = 6
WINDOW_LOG = 26  # zstd's longest look back: 64 MiB, which it keeps in memory
XZ_MEMORY = 96 << 20
RATIO = 200
ALWAYS = 1 << 30  # no archive is refused for less
RESERVE = 64 << 20
CHECK_EVERY = 32 << 20
_BIGGER_DISK = "free some space, or set APPPOT_STORE to a folder on a bigger disk"


def zstd() -> Any:
    """Return Python's own module for Zstandard, or its twin for older Pythons."""
    if sys.version_info >= (3, 14):
        import compression.zstd as module  # type: ignore[import-not-found,unused-ignore]
    else:
        import backports.zstd as module  # 'from backports' fails otherwise where it is missing
    return module


def kind(begin: bytes) -> bytes:
    """Return the magic number of a stream that begins so, b'' if it is not compressed."""
    for magic in (GZIP, ZSTD, XZ, BZIP2):
        if begin.startswith(magic):
            return magic
    return ZSTD if begin.startswith(_SKIPPABLE) else b""


def plain(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Give the decompressed pieces of a stream; its kind is seen from its first bytes.

    Raises ImageError if it is damaged or ends too early.
    """
    stream = iter(pieces)
    begin = b""
    for piece in stream:
        begin += piece
        if len(begin) >= _LONGEST_MAGIC:
            break
    magic = kind(begin)
    if not magic:
        if begin:
            yield begin
        yield from stream
        return
    try:
        if magic == GZIP:
            yield from _gzip(begin, stream)
        else:
            yield from _frames(magic, begin, stream)
    except _errors(magic) as error:
        raise ImageError(f"compressed data is damaged: {error}") from error


def _errors(magic: bytes) -> tuple[type[Exception], ...]:
    more: tuple[type[Exception], ...] = (zstd().ZstdError,) if magic == ZSTD else ()
    if magic == BZIP2:
        more = (OSError,)  # so says Python's module what is wrong with the data
    return zlib.error, EOFError, lzma.LZMAError, ValueError, *more


def _gzip(begin: bytes, stream: Iterator[bytes]) -> Iterator[bytes]:
    machine = zlib.decompressobj(31)
    data, pending, fresh = begin, False, True  # fresh: between two members
    while True:
        while data or pending:
            out = machine.decompress(data, PIECE)
            if out:
                yield out
            data, pending, fresh = machine.unconsumed_tail, len(out) == PIECE, False
            if machine.eof:
                data, pending, fresh = machine.unused_data.lstrip(b"\0"), False, True
                machine = zlib.decompressobj(31)
        piece = next(stream, None)
        if piece is None:
            break
        data = piece.lstrip(b"\0") if fresh else piece  # some programs fill the last block
    if not fresh:
        raise EOFError("it ends too early")


def _frames(magic: bytes, begin: bytes, stream: Iterator[bytes]) -> Iterator[bytes]:
    """Decompress what Python has machines of one form for: they keep their input."""
    machine = _machine(magic)
    data, fresh = begin, True
    while True:
        while data or not (fresh or machine.needs_input):
            out = machine.decompress(data, PIECE)
            fresh = False
            if out:
                yield out
            data = b""
            if machine.eof:
                data = machine.unused_data
                machine, fresh = _machine(magic), True
        piece = next(stream, None)
        if piece is None:
            break
        data = piece
    if not fresh:
        raise EOFError("it ends too early")


def _machine(magic: bytes) -> Any:
    if magic == XZ:
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=XZ_MEMORY)
    if magic == BZIP2:
        return bz2.BZ2Decompressor()
    module = zstd()
    return module.ZstdDecompressor(
        options={module.DecompressionParameter.window_log_max: WINDOW_LOG}
    )


class Room:
    """Counts what is written to a folder, and stops what would fill its disk or is absurd.

    That is more than some times the size that it has `compressed`; None for what is not.
    """

    def __init__(self, folder: str, compressed: int | None = None) -> None:
        self.folder = folder
        self.most = None if compressed is None else max(ALWAYS, RATIO * compressed)
        self.written = 0
        self._next = 0

    def take(self, size: int) -> None:
        """Count `size` bytes; raises ImageError."""
        self.written += size
        if self.most is not None and self.written > self.most:
            raise ImageError(
                f"compressed data becomes more than {RATIO} times its size: more than"
                f" {self.most >> 20} MiB",
                hint="no sensible image is so; if you trust it, unpack it and use 'apppot import'",
            )
        if self.written >= self._next:
            self._next = self.written + CHECK_EVERY
            check_room(self.folder, RESERVE + CHECK_EVERY)


def check_room(folder: str, needed: int) -> None:
    """Check that a folder's disk has room; raises ImageError."""
    found = os.statvfs(folder)
    free = found.f_bavail * found.f_frsize
    if free < needed:
        raise ImageError(
            f"{needed >> 20} MiB are needed in {folder}, and only {free >> 20} MiB are free",
            hint=_BIGGER_DISK,
        )


def pieces_of(file: IO[bytes]) -> Iterator[bytes]:
    """Give a file's contents from where it is."""
    while piece := file.read(PIECE):
        yield piece


def plain_file(file: IO[bytes], folder: str) -> IO[bytes]:
    """Return an archive as a seekable uncompressed file: itself, or an unnamed one in `folder`.

    Raises ImageError.
    """
    file.seek(0)
    if not kind(file.read(_LONGEST_MAGIC)):
        file.seek(0)
        return file
    room = Room(folder, file.seek(0, os.SEEK_END))
    file.seek(0)
    out = writer.nameless(folder)
    try:
        for piece in plain(pieces_of(file)):
            room.take(len(piece))
            out.write(piece)
        out.flush()
    except BaseException:
        out.close()
        raise
    return out
