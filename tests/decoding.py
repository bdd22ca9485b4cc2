"""Give a decoder bytes that come from no channel."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from apppot.agent.frames import Decoder, Frame


def feed(decoder: Decoder, data: bytes) -> list[Frame]:
    """Return the frames that `data` completes; raises ProtocolError."""
    found = []
    while data:
        size = min(len(data), len(decoder.room))
        decoder.room[:size] = data[:size]
        found += decoder.filled(size)
        data = data[size:]
    return found
