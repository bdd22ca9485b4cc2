"""Give QEMU the saved memory of a machine, as it is unpacked."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from apppot.image import compressed

if TYPE_CHECKING:
    from contextlib import ExitStack

_PIECE = 1 << 20


class Feed:
    """A pipe that gives all that is packed in a file.

    `ended` is set when all has been unpacked, and taken by its reader if that has not gone. What is
    damaged ends too early, which the reader notices; then `trouble` says what was found.
    """

    def __init__(self, memory: int, stack: ExitStack) -> None:
        """Take over the file's descriptor and begin; `reader` is closed with the stack."""
        self.trouble = ""
        self.ended = threading.Event()
        self._written = 0
        self._wanted = True
        self.reader, writer = os.pipe2(os.O_CLOEXEC)
        stack.callback(os.close, self.reader)
        threading.Thread(target=self._run, args=(memory, writer), daemon=True).start()

    def _run(self, memory: int, writer: int) -> None:
        try:
            self._unpack(memory, writer)
            if not self._written:  # QEMU waits for a first byte, and does not see the pipe's end
                self._give(memoryview(b"\0"), writer)
        finally:
            os.close(writer)
            os.close(memory)
            self.ended.set()

    def _unpack(self, memory: int, writer: int) -> None:
        zstd = compressed.zstd()
        unpacker = zstd.ZstdDecompressor()
        while not unpacker.eof:
            try:
                packed = os.read(memory, _PIECE) if unpacker.needs_input else b""
                if unpacker.needs_input and not packed:
                    self.trouble = "it ends too early"
                    return
                data = memoryview(unpacker.decompress(packed, _PIECE))
            except (OSError, zstd.ZstdError) as error:
                self.trouble = str(error)
                return
            self._give(data, writer)

    def _give(self, data: memoryview, writer: int) -> None:
        """Write while there is a reader; the checksum at the end is for what it has read, too."""
        try:
            while data and self._wanted:
                done = os.write(writer, data)
                self._written += done
                data = data[done:]
        except OSError:
            self._wanted = False
