"""Write a raw disk as a stream-optimised VMDK: deflated grains in one pass, on all processors.

The format is that of VMware's "Virtual Disk Format 5.0", with the directory and the footer at the
end, so that nothing is written twice. The same disk gives the same bytes.
"""

from __future__ import annotations

import errno
import os
import struct
import zlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import chain
from typing import TYPE_CHECKING

from apppot.errors import ImageError
from apppot.image.parttable import SECTOR

if TYPE_CHECKING:
    import uuid
    from collections.abc import Callable, Generator, Iterator
    from concurrent.futures import Future

GRAIN = 65536
ENTRIES = 512  # grains of one table
SECTORS = 1 << 32  # of the file, whose tables have 32 bits
LEVEL = 1  # see docs/decisions/018
_PIECE = 16 * GRAIN  # what a thread takes at once
_THREADS = 16  # at most; there are two pieces in memory for each
_VERSION, _NEWLINES, _DEFLATED, _MARKERS = 3, 1 << 0, 1 << 16, 1 << 17
_AT_END = 0xFFFFFFFFFFFFFFFF
_DESCRIPTION = 20  # sectors, after the header
_OVERHEAD = 128  # sectors before the first grain
_END, _TABLE, _DIRECTORY, _FOOTER = range(4)
_HEADER = struct.Struct("<4sIIQQQQIQQQB4sH433x")
_MARK = struct.Struct("<QII496x")
_GRAIN_MARK = struct.Struct("<QI")

Grains = list[tuple[int, bytes]]  # numbers, and what is in the file for each


def write(source: int, sink: Callable[[bytes], object], identity: uuid.UUID) -> None:
    """Give the VMDK of the raw disk `source` to `sink`, piece by piece; raises ImageError."""
    size = os.fstat(source).st_size
    sectors = -(-size // SECTOR)
    head = _header(sectors, _AT_END) + describe(sectors, identity)
    out = _Out(sink)
    out.put(head.ljust(_OVERHEAD * SECTOR, b"\0"))
    directory = [0] * -(-size // (GRAIN * ENTRIES))
    table, current = [0] * ENTRIES, 0
    with closing(_pressed(source, size)) as pressed:
        for number, content in chain.from_iterable(pressed):
            if number // ENTRIES != current:
                directory[current] = out.table(table)
                table, current = [0] * ENTRIES, number // ENTRIES
            table[number % ENTRIES] = out.put(content)
    if size:
        directory[current] = out.table(table)
    begin = out.meta(_DIRECTORY, _little(directory))
    out.meta(_FOOTER, _header(sectors, begin))
    out.put(_MARK.pack(0, 0, _END))


def describe(sectors: int, identity: uuid.UUID) -> bytes:
    """Return the description, which is text, filled up.

    VirtualBox cannot give a name of its own to a disk that it cannot write to; it has one.
    """
    cylinders = min(sectors // (16 * 63), 16383)
    text = f"""# Disk DescriptorFile
version=1
CID={identity.fields[0]:08x}
parentCID=ffffffff
createType="streamOptimized"

# Extent description
RW {sectors} SPARSE "disk"

# The Disk Data Base
#DDB

ddb.virtualHWVersion = "4"
ddb.geometry.cylinders = "{cylinders}"
ddb.geometry.heads = "16"
ddb.geometry.sectors = "63"
ddb.adapterType = "ide"
ddb.uuid.image = "{identity}"
"""
    return text.encode().ljust(_DESCRIPTION * SECTOR, b"\0")


class _Out:
    """What is written, and the sector that comes next."""

    def __init__(self, sink: Callable[[bytes], object]) -> None:
        self.sink, self.sector = sink, 0

    def put(self, content: bytes) -> int:
        """Write whole sectors and return the number of the first."""
        begin = self.sector
        if begin >= SECTORS:
            raise ImageError("a VMDK has at most 2 TiB", hint="export as raw or qcow2")
        self.sink(content)
        self.sector += len(content) // SECTOR
        return begin

    def meta(self, kind: int, content: bytes) -> int:
        """Write something that is no grain, after its mark."""
        content += bytes(-len(content) % SECTOR)
        self.put(_MARK.pack(len(content) // SECTOR, 0, kind))
        return self.put(content)

    def table(self, table: list[int]) -> int:
        """Write a table of grains, if it has any; return its sector, 0 if it was not written."""
        return self.meta(_TABLE, _little(table)) if any(table) else 0


def _header(sectors: int, directory: int) -> bytes:
    flags = _NEWLINES | _DEFLATED | _MARKERS
    # fmt: off
    return _HEADER.pack(
        b"KDMV", _VERSION, flags, sectors, GRAIN // SECTOR, 1, _DESCRIPTION, ENTRIES,
        0, directory, _OVERHEAD, 0, b"\n \r\n", 1,
    )
    # fmt: on


def _little(numbers: list[int]) -> bytes:
    return struct.pack(f"<{len(numbers)}I", *numbers)


def _pressed(source: int, size: int) -> Generator[Grains, None, None]:
    """Return the disk's grains in order; some are made while others are written."""
    threads = min(len(os.sched_getaffinity(0)), _THREADS)
    waiting: deque[Future[Grains]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for begin, end in _pieces(source, size):
            waiting.append(pool.submit(_press, source, begin, end))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _pieces(source: int, size: int) -> Iterator[tuple[int, int]]:
    """Return begin and end of what is to be read; holes are left out."""
    end = 0
    while end < size:
        try:
            data = os.lseek(source, end, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # there is only a hole up to the end
                return
            raise
        begin = max(end, data // GRAIN * GRAIN)
        end = -(-os.lseek(source, data, os.SEEK_HOLE) // GRAIN) * GRAIN
        yield from ((at, min(at + _PIECE, end)) for at in range(begin, end, _PIECE))


def _press(source: int, begin: int, end: int) -> Grains:
    content = _read(source, begin, end)
    content += bytes(-len(content) % GRAIN)
    grains, empty = [], bytes(GRAIN)
    for at in range(0, len(content), GRAIN):
        grain = content[at : at + GRAIN]
        if grain != empty:
            deflated = zlib.compress(grain, LEVEL)
            record = _GRAIN_MARK.pack((begin + at) // SECTOR, len(deflated)) + deflated
            grains.append(((begin + at) // GRAIN, record + bytes(-len(record) % SECTOR)))
    return grains


def _read(source: int, begin: int, end: int) -> bytes:
    """Return what is there of the bytes from `begin` to `end`."""
    parts = []
    while begin < end and (part := os.pread(source, end - begin, begin)):
        parts.append(part)
        begin += len(part)
    return b"".join(parts)
