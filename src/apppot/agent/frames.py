"""Frames and records: the wire format of the agent protocol, without any input or output."""

from __future__ import annotations

import struct
from enum import IntEnum

from apppot.errors import ProtocolError
from apppot.lean import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MAGIC = b"APPPOT\x00\x01"
VERSION = 1
MAX_PAYLOAD = 65536
MAX_SPECIFICATION = 8 << 20
WINDOW = 131072  # bytes of one stream that may be under way without a credit
READ_SIZE = 1 << 18  # more than a frame
END = 1  # flag: last piece of a specification

_HEADER = struct.Struct("<BBHI")
_RECORD = struct.Struct("<HHI")
_U64 = struct.Struct("<Q")
_CREDIT = struct.Struct("<BI")


class Kind(IntEnum):
    """Frame types."""

    HELLO = 1
    READY = 2
    FAILED = 3
    STARTED = 4
    STDOUT = 5
    STDERR = 6
    EXITED = 7
    GUEST_CREDIT = 8
    GUEST_CLOSE = 9
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


_FROM_GUEST = {int(kind): kind for kind in Kind if kind <= Kind.THAWED}


@dataclass(frozen=True)
class Frame:
    """One frame from the guest."""

    kind: Kind
    ident: int
    payload: bytes


def encode(kind: Kind, ident: int = 0, payload: bytes = b"", flags: int = 0) -> bytes:
    """Return one frame's bytes."""
    return _HEADER.pack(kind, flags, ident, len(payload)) + payload


def encode_specification(kind: Kind, ident: int, records: bytes) -> Iterator[bytes]:
    """Cut a specification into frames, the last one marked.

    Raises ProtocolError if it is larger than the guest accepts.
    """
    if len(records) > MAX_SPECIFICATION:
        raise ProtocolError(
            f"the command's arguments and environment take {len(records)} bytes,"
            f" more than the {MAX_SPECIFICATION} that a machine accepts",
            hint="pass long lists in a file or through standard input",
        )
    for start in range(0, len(records), MAX_PAYLOAD) or (0,):
        piece = records[start : start + MAX_PAYLOAD]
        last = start + MAX_PAYLOAD >= len(records)
        yield encode(kind, ident, piece, END if last else 0)


def record(tag: int, value: int | str | bytes) -> bytes:
    """Return one record; texts are encoded as the operating system's names are."""
    if isinstance(value, int):
        raw = _U64.pack(value)
    elif isinstance(value, str):
        raw = value.encode("utf-8", "surrogateescape")
    else:
        raw = value
    return _RECORD.pack(tag, 0, len(raw)) + raw


def records(pairs: Iterable[tuple[int, int | str | bytes]]) -> bytes:
    """Return the bytes of several records."""
    return b"".join(record(tag, value) for tag, value in pairs)


def parse_records(data: bytes) -> dict[int, bytes]:
    """Return a result's records by tag; raises ProtocolError if they are malformed."""
    found: dict[int, bytes] = {}
    offset = 0
    while offset < len(data):
        if len(data) - offset < _RECORD.size:
            raise ProtocolError("the guest agent sent half a record")
        tag, zero, length = _RECORD.unpack_from(data, offset)
        offset += _RECORD.size
        if zero or tag in found or length > len(data) - offset:
            raise ProtocolError(f"the guest agent sent a malformed record (tag {tag})")
        found[tag] = data[offset : offset + length]
        offset += length
    return found


def number(found: dict[int, bytes], tag: int, default: int = 0) -> int:
    """Return a numeric record's value; raises ProtocolError if it is not 8 bytes long."""
    raw = found.get(tag)
    if raw is None:
        return default
    if len(raw) != _U64.size:
        raise ProtocolError(f"the guest agent sent a number of {len(raw)} bytes (tag {tag})")
    value: int = _U64.unpack(raw)[0]
    return value


def encode_credit(ident: int, stream: int, amount: int) -> bytes:
    """Return a CREDIT frame: `amount` bytes of `stream` have been passed on."""
    return encode(Kind.CREDIT, ident, _CREDIT.pack(stream, amount))


def parse_credit(payload: bytes) -> tuple[int, int]:
    """Return stream and amount of a credit from the guest; raises ProtocolError."""
    if len(payload) != _CREDIT.size:
        raise ProtocolError("the guest agent sent a malformed credit")
    stream, amount = _CREDIT.unpack(payload)
    return stream, amount


class Decoder:
    """Cut the guest's bytes into frames; what precedes the magic is thrown away.

    They are read to where they stay: `room` is for the next ones, and `filled` is called then.
    """

    def __init__(self) -> None:
        self._bytes = memoryview(bytearray(READ_SIZE))
        self._end = 0
        self._opened = False

    def opened(self) -> None:
        """Expect no magic: the agent has said it to another one."""
        self._opened = True

    @property
    def room(self) -> memoryview:
        """Where the guest's next bytes belong; there is always some."""
        return self._bytes[self._end :]

    def filled(self, amount: int) -> list[Frame]:
        """Return the frames that the first bytes of `room` complete; raises ProtocolError."""
        self._end += amount
        if not self._opened and not self._open():
            return []
        frames = []
        offset = 0
        while self._end - offset >= _HEADER.size:
            kind, flags, ident, length = _HEADER.unpack_from(self._bytes, offset)
            if kind not in _FROM_GUEST or flags or length > MAX_PAYLOAD:
                raise ProtocolError(
                    f"the guest agent sent a malformed frame (type {kind}, length {length})"
                )
            start = offset + _HEADER.size
            if self._end - start < length:
                break
            offset = start + length
            frames.append(Frame(_FROM_GUEST[kind], ident, bytes(self._bytes[start:offset])))
        self._forget(offset)
        return frames

    def _forget(self, size: int) -> None:
        self._bytes[: self._end - size] = self._bytes[size : self._end]
        self._end -= size

    def _open(self) -> bool:
        """Look for the magic; keep only what may be its beginning."""
        at = bytes(self._bytes[: self._end]).find(MAGIC)
        if at < 0:
            self._forget(max(0, self._end - len(MAGIC) + 1))
            return False
        self._forget(at + len(MAGIC))
        self._opened = True
        return True
