"""Read the maps of sparse files in tar archives: GNU's old one, and three of pax archives."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from apppot.errors import ImageError
from apppot.image.tarread import BLOCK, LAST_SIZE, damaged, decimal, number, padded

if TYPE_CHECKING:
    from collections.abc import Generator

    from apppot.image.tarread import Entry, Source

MOST_PIECES = 1 << 18  # of one file


def old_form(source: Source, entry: Entry, block: bytes) -> int:
    """Read GNU's old map of a sparse file; return how many bytes of headers it takes."""
    pieces: array[int] = array("Q")
    place, count, more, extra = 386, 4, block[482], 0
    stored, entry.size = entry.size, number(block[483:495])
    while True:
        for at in range(place, place + 24 * count, 24):
            if block[at : at + 1] in {b"", b"\0"}:
                break
            _add_piece(pieces, number(block[at : at + 12]), number(block[at + 12 : at + 24]))
        if not more:
            break
        block = source.read(entry.data + extra, BLOCK)
        if len(block) < BLOCK:
            raise damaged("it ends within the map of a sparse file")
        extra += BLOCK
        place, count, more = 0, 21, block[504]
    entry.data += extra
    _finish_sparse(entry, pieces, stored)
    return extra


def pax_form(source: Source, entry: Entry, listed: list[bytes], values: dict[bytes, bytes]) -> None:
    """Read one of the maps of pax archives: 0.0 in records, 0.1 in one, 1.0 before the data."""
    pieces: array[int] = array("Q")
    stored = entry.size
    real = values.get(b"GNU.sparse.realsize") or values.get(b"GNU.sparse.size")
    if real is None:
        raise damaged("a sparse file has no size")
    if values.get(b"GNU.sparse.major") == b"1":
        begin = entry.data
        numbers = _lines(source, entry)
        for _ in range(min(next(numbers), MOST_PIECES + 1)):
            _add_piece(pieces, next(numbers), next(numbers))
        numbers.close()
        entry.data = begin + padded(entry.data - begin)
        stored -= entry.data - begin
    else:
        single = values.get(b"GNU.sparse.map")
        texts = single.split(b",") if single else listed
        for offset, size in zip(texts[::2], texts[1::2], strict=False):
            _add_piece(pieces, decimal(offset), decimal(size))
    entry.size = decimal(real)
    _finish_sparse(entry, pieces, stored)


def _lines(source: Source, entry: Entry) -> Generator[int]:
    """Give the decimal numbers at an entry's data, one a line; move `data` behind them."""
    buffer, ahead, end = b"", entry.data, entry.data + entry.size
    while True:
        line, newline, rest = buffer.partition(b"\n")
        if newline:
            entry.data += len(line) + 1
            buffer = rest
            yield decimal(line)
        elif len(buffer) > 32 or ahead >= end:  # noqa: PLR2004
            raise damaged("the map of a sparse file makes no sense")
        else:
            block = source.read(ahead, BLOCK)
            ahead += BLOCK
            buffer += block


def _add_piece(pieces: array[int], offset: int, size: int) -> None:
    if len(pieces) >= 2 * MOST_PIECES:
        raise ImageError(f"a sparse file in the archive has more than {MOST_PIECES} pieces")
    if offset < 0 or size < 0 or max(offset, size) > LAST_SIZE:
        raise damaged("a sparse file has a piece out of range")
    pieces.extend((offset, size))


def _finish_sparse(entry: Entry, pieces: array[int], stored: int) -> None:
    """Check a sparse file's pieces against each other and its sizes."""
    position = total = 0
    for at in range(0, len(pieces), 2):
        if pieces[at] < position:
            raise damaged("the pieces of a sparse file overlap")
        position = pieces[at] + pieces[at + 1]
        total += pieces[at + 1]
    if position > entry.size or total > stored:
        raise damaged("the pieces of a sparse file are more than it has")
    entry.pieces = pieces
