"""Random bytes from a hostile guest: the host's decoder may refuse them, and nothing else."""

from __future__ import annotations

import contextlib
import os
import random
import time

from apppot.agent import frames
from apppot.agent.frames import MAGIC, Decoder, Kind
from apppot.errors import ProtocolError
from tests.decoding import feed

SECONDS = float(os.environ.get("APPPOT_TEST_FUZZ_SECONDS", "5"))


def _mutated(source: random.Random) -> bytes:
    """Return a conversation with some bytes changed, lost or repeated."""
    kinds = [kind for kind in Kind if kind <= Kind.BYE]
    data = bytearray(MAGIC)
    for _ in range(source.randrange(1, 20)):
        payload = source.randbytes(source.choice((0, 1, 5, 16, 300, 65536)))
        if source.random() < 0.5:
            payload = frames.records((n, payload[:40]) for n in range(source.randrange(4)))
        data += frames.encode(source.choice(kinds), source.randrange(4), payload)
    for _ in range(source.choice((0, 0, 1, 3, 10))):
        at = source.randrange(len(data))
        match source.randrange(3):
            case 0:
                data[at] = source.randrange(256)
            case 1:
                del data[at : at + source.randrange(1, 50)]
            case _:
                data[at:at] = data[at : at + 30]
        if not data:
            return b""
    return bytes(data)


def test_the_decoder_raises_nothing_but_protocol_errors() -> None:
    seed = random.randrange(1 << 32)
    source = random.Random(seed)
    end, rounds = time.monotonic() + SECONDS, 0
    while time.monotonic() < end:
        rounds += 1
        data, decoder = _mutated(source), Decoder()
        with contextlib.suppress(ProtocolError):
            while data:
                cut = source.randrange(1, len(data) + 1)
                for frame in feed(decoder, data[:cut]):
                    assert len(frame.payload) <= frames.MAX_PAYLOAD, f"seed {seed}"
                    with contextlib.suppress(ProtocolError):
                        found = frames.parse_records(frame.payload)
                        for tag in found:
                            frames.number(found, tag)
                    with contextlib.suppress(ProtocolError):
                        frames.parse_credit(frame.payload)
                data = data[cut:]
    assert rounds > 50, f"only {rounds} conversations in {SECONDS} s"
