"""Drives the real agent over a socket pair, without a machine: `agent --test DESCRIPTOR`."""

from __future__ import annotations

import os
import select
import socket
import struct
import subprocess
import time
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

MAGIC = b"APPPOT\0\1"
WINDOW = 131072
PIECE = 65536
Pair = tuple[int, int | bytes]
PATH = (b"PATH=/usr/local/bin:/usr/bin:/bin",)


class Type(IntEnum):
    HELLO = 1
    READY = 2
    FAILED = 3
    STARTED = 4
    STDOUT = 5
    STDERR = 6
    EXITED = 7
    CREDIT_INPUT = 8
    CLOSE_INPUT = 9
    NOTICE = 10
    BYE = 11
    FROZEN = 12
    THAWED = 13
    MACHINE = 64
    COMMAND = 65
    STDIN = 66
    SIGNAL = 67
    RESIZE = 68
    CREDIT = 69
    CLOSE = 70
    POWEROFF = 71
    FREEZE = 72
    THAW = 73


@dataclass(frozen=True)
class Frame:
    type: Type
    id: int
    payload: bytes

    @property
    def records(self) -> dict[int, bytes]:
        found, at = {}, 0
        while at < len(self.payload):
            tag, zero, length = struct.unpack_from("<HHI", self.payload, at)
            assert zero == 0
            assert at + 8 + length <= len(self.payload)
            found[tag] = self.payload[at + 8 : at + 8 + length]
            at += 8 + length
        return found

    def number(self, tag: int) -> int | None:
        raw = self.records.get(tag)
        return None if raw is None else int.from_bytes(raw, "little")


@dataclass
class Outcome:
    """All that the agent said about one command."""

    last: Frame
    stdout: bytes = b""
    stderr: bytes = b""
    frames: list[Frame] = field(default_factory=list)

    @property
    def code(self) -> int | None:
        return self.last.number(6)

    @property
    def signal(self) -> int | None:
        return self.last.number(7)


def frame(kind: int, ident: int = 0, payload: bytes = b"", flags: int = 0) -> bytes:
    return struct.pack("<BBHI", kind, flags, ident, len(payload)) + payload


def records(pairs: Iterable[Pair]) -> bytes:
    out = bytearray()
    for tag, value in pairs:
        raw = value.to_bytes(8, "little") if isinstance(value, int) else value
        out += struct.pack("<HHI", tag, 0, len(raw)) + raw
    return bytes(out)


def specification(kind: int, ident: int, body: bytes, piece: int = PIECE) -> bytes:
    pieces = [body[at : at + piece] for at in range(0, len(body), piece)] or [b""]
    last = len(pieces) - 1
    return b"".join(frame(kind, ident, p, int(n == last)) for n, p in enumerate(pieces))


class Agent:
    """A running agent and this end of its channel."""

    def __init__(self, program: str, *, ready: bool = True) -> None:
        self.socket, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [program, "--test", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stderr=subprocess.PIPE,
            )
        self.socket.setblocking(False)
        self._input = bytearray()
        self._next = 0
        assert self._take(8) == MAGIC
        self.hello = self.receive()
        if ready:
            self.send(specification(Type.MACHINE, 0, records([(2, b"/dev/none")])))
            assert self.receive().type is Type.READY

    def close(self) -> None:
        self.socket.close()
        self.process.wait(20)
        if self.process.stderr:
            self.process.stderr.close()

    def send(self, data: bytes) -> None:
        """Send all, and keep what arrives meanwhile: neither side may block the other."""
        view = memoryview(data)
        while view:
            _, writable, _ = select.select([self.socket], [self.socket], [], 20)
            self._fill(0)
            if writable:
                view = view[self.socket.send(view[: 1 << 18]) :]

    def _fill(self, timeout: float) -> bool:
        if not select.select([self.socket], [], [], timeout)[0]:
            return False
        data = self.socket.recv(1 << 20)
        if not data:
            raise EOFError
        self._input += data
        return True

    def _take(self, size: int, timeout: float = 20) -> bytes:
        end = time.monotonic() + timeout
        while len(self._input) < size:
            if not self._fill(max(0.0, end - time.monotonic())) and time.monotonic() >= end:
                raise TimeoutError
        taken = bytes(self._input[:size])
        del self._input[:size]
        return taken

    def receive(self, timeout: float = 20) -> Frame:
        self._take(0)
        end = time.monotonic() + timeout
        while len(self._input) < 8:
            if not self._fill(max(0.0, end - time.monotonic())):
                raise TimeoutError
        kind, flags, ident, length = struct.unpack_from("<BBHI", self._input)
        assert flags == 0
        assert length <= PIECE
        return Frame(Type(kind), ident, self._take(8 + length)[8:])

    def quiet(self, seconds: float = 0.2) -> bool:
        """Tell whether nothing arrives for a while."""
        return not self._input and not self._fill(seconds)

    def command(
        self, *argv: bytes, env: tuple[bytes, ...] = PATH, more: Iterable[Pair] = ()
    ) -> int:
        self._next += 1
        pairs: list[Pair] = [(1, a) for a in argv]
        pairs += [(2, e) for e in env]
        self.send(specification(Type.COMMAND, self._next, records([*pairs, *more])))
        return self._next

    def input(self, ident: int, data: bytes, *, end: bool = True) -> None:
        """Send at most a window of input."""
        pieces = [data[at : at + PIECE] for at in range(0, len(data), PIECE)]
        if end:
            pieces.append(b"")
        self.send(b"".join(frame(Type.STDIN, ident, piece) for piece in pieces))

    def signal(self, ident: int, number: int) -> None:
        self.send(frame(Type.SIGNAL, ident, bytes([number])))

    def credit(self, ident: int, stream: int, amount: int) -> None:
        self.send(frame(Type.CREDIT, ident, struct.pack("<BI", stream, amount)))

    def shut(self, ident: int, stream: int) -> None:
        self.send(frame(Type.CLOSE, ident, bytes([stream])))

    def until(self, ident: int, kind: Type, *, credit: bool = True) -> Outcome:
        """Read what the agent says of this command up to a frame of this type."""
        seen: list[Frame] = []
        out, err = bytearray(), bytearray()
        while True:
            got = self.receive()
            assert got.id == ident, got
            seen.append(got)
            if got.type in (Type.STDOUT, Type.STDERR):
                (out if got.type is Type.STDOUT else err).extend(got.payload)
                if credit and got.payload:
                    self.credit(ident, got.type - Type.STDOUT + 1, len(got.payload))
            if got.type in (kind, Type.FAILED, Type.EXITED):
                return Outcome(got, bytes(out), bytes(err), seen)

    def run(
        self,
        *argv: bytes,
        data: bytes = b"",
        env: tuple[bytes, ...] = PATH,
        more: Iterable[Pair] = (),
    ) -> Outcome:
        """Run a command to its end."""
        ident = self.command(*argv, env=env, more=more)
        self.input(ident, data)
        return self.until(ident, Type.EXITED)

    def shell(self, script: str, data: bytes = b"", more: Iterable[Pair] = ()) -> Outcome:
        return self.run(b"/bin/sh", b"-c", os.fsencode(script), data=data, more=more)

    def feed(self, ident: int, data: bytes) -> Outcome:
        """Send any amount of input within the window while reading, then read to the end."""
        window, at = WINDOW, 0
        out = bytearray()
        while True:
            while at < len(data) and window > 0:
                piece = data[at : at + min(window, PIECE)]
                self.send(frame(Type.STDIN, ident, piece))
                at += len(piece)
                window -= len(piece)
                if at == len(data):
                    self.send(frame(Type.STDIN, ident))
            got = self.receive()
            if got.type is Type.CREDIT_INPUT:
                stream, amount = struct.unpack("<BI", got.payload)
                assert stream == 0
                window += amount
                assert window <= WINDOW
            elif got.type is Type.STDOUT and got.payload:
                out += got.payload
                self.credit(ident, 1, len(got.payload))
            elif got.type is Type.EXITED:
                return Outcome(got, bytes(out))

    def failure(self) -> Frame:
        """Expect FAILED for the machine, then the end of the channel."""
        got = self.receive()
        while got.type is not Type.FAILED or got.id != 0:
            got = self.receive()
        try:
            rest = self.receive()
        except (EOFError, ConnectionResetError):
            self.process.wait(20)
            return got
        raise AssertionError(f"more after the failure: {rest}")
