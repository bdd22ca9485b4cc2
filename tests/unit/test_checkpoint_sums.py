"""Digests of saved disks: what they depend on, and what they cost."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apppot.checkpoint import sums
from apppot.checkpoint.sums import _PIECE, Digest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SIZE = 5 * _PIECE + 4097


def digest(path: Path) -> str:
    with contextlib.ExitStack() as stack, open(path, "rb") as file:
        return Digest(file.fileno(), stack).result()


def disk(path: Path, parts: dict[int, bytes], *, full: bool = False) -> Path:
    with open(path, "wb") as file:
        if full:
            file.write(bytes(SIZE))
        file.truncate(SIZE)
        for at, data in parts.items():
            os.pwrite(file.fileno(), data, at)
    return path


parts = st.dictionaries(st.integers(0, SIZE - 64), st.binary(min_size=1, max_size=64), max_size=6)


@given(parts=parts, where=st.integers(0, SIZE - 1), bit=st.integers(0, 7))
def test_holes_do_not_matter_and_every_bit_does(
    tmp_path_factory: pytest.TempPathFactory, parts: dict[int, bytes], where: int, bit: int
) -> None:
    folder = tmp_path_factory.mktemp("disks")
    sparse = disk(folder / "sparse", parts)
    right = digest(sparse)
    assert digest(disk(folder / "full", parts, full=True)) == right
    with open(sparse, "r+b") as file:
        was = os.pread(file.fileno(), 1, where)[0]
        os.pwrite(file.fileno(), bytes([was ^ 1 << bit]), where)
    assert digest(sparse) != right


def test_data_at_another_place_is_other_data(tmp_path: Path) -> None:
    first = digest(disk(tmp_path / "a", {0: b"data"}))
    assert first != digest(disk(tmp_path / "b", {_PIECE: b"data"}))


def test_holes_take_no_time(tmp_path: Path) -> None:
    with open(tmp_path / "disk", "wb") as file:
        file.truncate(1 << 40)
        os.pwrite(file.fileno(), b"data", 1 << 39)
    began = time.monotonic()
    digest(tmp_path / "disk")
    assert time.monotonic() - began < 5  # and an hour if it were read


def test_an_unwanted_digest_ends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def without_end(_: int) -> Iterator[tuple[int, bytes]]:
        while True:
            time.sleep(0.001)
            yield 0, b"data"

    def interrupted() -> None:
        raise InterruptedError

    monkeypatch.setattr(sums, "_pieces", without_end)
    with pytest.raises(InterruptedError), contextlib.ExitStack() as stack:
        Digest(0, stack).result(interrupted)


def test_what_cannot_be_read_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: int) -> bytes:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "pread", broken)
    with pytest.raises(OSError, match="Input/output"):
        digest(disk(tmp_path / "disk", {0: b"data"}))
