"""Write files with holes where there would be zeros."""

from __future__ import annotations

import io
import os
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

LEAST = 4096  # bytes: a block of most file systems
PIECE = 1 << 16  # what is copied at once: holes are as large, or larger
_ZEROS = bytes(PIECE)


class Sparse(io.RawIOBase):
    """A new file that is written from its beginning to its end; pieces of zeros take no room."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, piece: ReadableBuffer) -> int:
        """Write a piece, or leave it out."""
        data = bytes(piece)
        if len(data) < LEAST or data != _ZEROS[: len(data)]:
            return self._file.write(data)
        self._file.seek(len(data), os.SEEK_CUR)
        return len(data)

    def tell(self) -> int:
        """Return the place where the next piece goes."""
        return self._file.tell()

    def finish(self) -> None:
        """Give the file its size, should it end with a hole."""
        self._file.truncate()
