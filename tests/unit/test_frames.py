"""Frames and records: any split of the stream gives the same, garbage only ProtocolError."""

from __future__ import annotations

import contextlib
import itertools
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apppot.agent import frames
from apppot.agent.frames import MAGIC, READ_SIZE, Decoder, Frame, Kind
from apppot.errors import ProtocolError
from tests.decoding import feed

GUEST_KINDS = [kind for kind in Kind if kind <= Kind.BYE]
FRAMES = st.lists(
    st.tuples(st.sampled_from(GUEST_KINDS), st.integers(0, 65535), st.binary(max_size=300)),
    max_size=20,
)


def _stream(wanted: list[tuple[Kind, int, bytes]]) -> bytes:
    return b"".join(frames.encode(kind, ident, payload) for kind, ident, payload in wanted)


def _plain(found: list[Frame]) -> list[tuple[Kind, int, bytes]]:
    return [(frame.kind, frame.ident, frame.payload) for frame in found]


@given(FRAMES, st.binary(max_size=50), st.lists(st.integers(0, 10_000), max_size=30))
def test_any_split_gives_the_same_frames(
    wanted: list[tuple[Kind, int, bytes]], noise: bytes, cuts: list[int]
) -> None:
    noise = noise.replace(b"\0", b"")  # firmware's chatter, which cannot hold the magic
    data = noise + MAGIC + _stream(wanted)
    places = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    decoder = Decoder()
    found: list[Frame] = []
    for start, end in itertools.pairwise(places):
        found += feed(decoder, data[start:end])
    assert _plain(found) == wanted


@given(FRAMES)
def test_byte_by_byte(wanted: list[tuple[Kind, int, bytes]]) -> None:
    decoder = Decoder()
    data = MAGIC[:3] + MAGIC + _stream(wanted)  # a false start
    found = [frame for byte in data for frame in feed(decoder, bytes((byte,)))]
    assert _plain(found) == wanted


@given(st.lists(st.binary(max_size=200), max_size=10))
def test_garbage_is_a_protocol_error_or_nothing(pieces: list[bytes]) -> None:
    decoder = Decoder()
    with contextlib.suppress(ProtocolError):
        feed(decoder, MAGIC)
        for piece in pieces:
            feed(decoder, piece)


@given(st.binary(max_size=4000).filter(lambda raw: MAGIC not in raw))
def test_before_the_magic_nothing_is_kept(noise: bytes) -> None:
    decoder = Decoder()
    assert feed(decoder, noise) == []
    assert READ_SIZE - len(decoder.room) < len(MAGIC)


@pytest.mark.parametrize(
    "header",
    [
        struct.pack("<BBHI", 0, 0, 1, 0),
        struct.pack("<BBHI", 14, 0, 1, 0),
        struct.pack("<BBHI", 64, 0, 0, 0),  # the host's own
        struct.pack("<BBHI", 5, 1, 1, 0),  # a reserved flag
        struct.pack("<BBHI", 5, 0, 1, 65537),
        struct.pack("<BBHI", 5, 0, 1, 0xFFFFFFFF),
    ],
)
def test_malformed_frames(header: bytes) -> None:
    with pytest.raises(ProtocolError):
        feed(Decoder(), MAGIC + header)


@given(st.dictionaries(st.integers(0, 65535), st.binary(max_size=100), max_size=20))
def test_records_come_back(wanted: dict[int, bytes]) -> None:
    assert frames.parse_records(frames.records(wanted.items())) == wanted


@given(st.binary(max_size=100))
def test_garbage_records(data: bytes) -> None:
    try:
        found = frames.parse_records(data)
    except ProtocolError:
        return
    assert frames.records(found.items()) == data


@given(st.integers(0, (1 << 64) - 1))
def test_numbers(value: int) -> None:
    found = frames.parse_records(frames.record(7, value))
    assert frames.number(found, 7) == value
    assert frames.number(found, 8, 5) == 5


def test_a_number_of_another_length() -> None:
    with pytest.raises(ProtocolError):
        frames.number({1: b"1234567"}, 1)


@pytest.mark.parametrize("size", [0, 1, 65535, 65536, 65537, 200_000])
def test_a_specification_is_cut_and_its_last_piece_marked(size: int) -> None:
    data = bytes(n % 251 for n in range(size))
    pieces = list(frames.encode_specification(Kind.COMMAND, 9, data))
    headers = [struct.unpack("<BBHI", piece[:8]) for piece in pieces]
    assert b"".join(piece[8:] for piece in pieces) == data
    assert [flags for _, flags, _, _ in headers] == [0] * (len(pieces) - 1) + [1]
    assert all(kind == 65 and ident == 9 for kind, _, ident, _ in headers)
    assert all(
        length == len(piece) - 8 for (_, _, _, length), piece in zip(headers, pieces, strict=True)
    )


def test_too_large_a_specification() -> None:
    with pytest.raises(ProtocolError, match="8388608"):
        list(frames.encode_specification(Kind.COMMAND, 1, bytes((8 << 20) + 1)))


def test_credits() -> None:
    raw = frames.encode_credit(3, 1, 131072)
    assert raw == struct.pack("<BBHI", 69, 0, 3, 5) + struct.pack("<BI", 1, 131072)
    assert frames.parse_credit(struct.pack("<BI", 0, 9)) == (0, 9)
    for bad in (b"", b"1234", b"123456"):
        with pytest.raises(ProtocolError):
            frames.parse_credit(bad)
