"""Stream-optimised VMDKs: read back by qemu-img, and by a reader that follows the stream."""

from __future__ import annotations

import io
import os
import random
import shutil
import struct
import subprocess
import tarfile
import threading
import uuid
import zlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apppot.errors import ImageError
from apppot.image.bootdisk import ova, vmdk
from apppot.image.parttable import SECTOR

if TYPE_CHECKING:
    from pathlib import Path

GRAIN = 65536
TABLE = 512 * GRAIN
IDENTITY = uuid.UUID("12345678-0000-4000-8000-000000000000")


def written(disk: Path, target: Path) -> bytes:
    with disk.open("rb") as source, target.open("wb") as file:
        vmdk.write(source.fileno(), file.write, IDENTITY)
    return target.read_bytes()


def header(sector: bytes) -> dict[str, int]:
    magic, version, flags, capacity, grain, place, length, entries, spare, directory, overhead = (
        struct.unpack_from("<4sIIQQQQIQQQ", sector)
    )
    unclean, lines, method = struct.unpack_from("<B4sH", sector, 72)
    assert (magic, version, flags, spare, unclean, lines) == (b"KDMV", 3, 0x30001, 0, 0, b"\n \r\n")
    assert (grain, entries, place, length, method) == (128, 512, 1, 20, 1)
    return {"capacity": capacity, "directory": directory, "overhead": overhead}


def followed(data: bytes) -> tuple[int, dict[int, bytes]]:
    """Read a stream from begin to end; return the disk's size, and its grains by their number.

    Every sector of the file has to belong to something, and the tables have to agree with it.
    """
    first = header(data)
    assert first["directory"] == (1 << 64) - 1
    at = first["overhead"] * SECTOR
    assert not any(data[21 * SECTOR : at])
    grains: dict[int, bytes] = {}
    places: dict[int, int] = {}
    tables: dict[int, tuple[int, ...]] = {}
    directory: tuple[int, ...] = ()
    last = None
    while True:
        value, size, kind = struct.unpack_from("<QII", data, at)
        place = at // SECTOR
        if size:
            assert value % 128 == 0
            number = value // 128
            assert number > max(grains, default=-1)
            grains[number] = zlib.decompress(data[at + 12 : at + 12 + size])
            assert len(grains[number]) == GRAIN
            assert any(grains[number])
            places[number] = place
            end = at + 12 + size
            at = -(-end // SECTOR) * SECTOR
            assert not any(data[end:at])
            continue
        at += SECTOR
        content = data[at : at + value * SECTOR]
        if kind == 1:
            tables[place + 1] = struct.unpack("<512I", content)
            assert any(tables[place + 1])
        elif kind == 2:
            directory = struct.unpack(f"<{len(content) // 4}I", content)
            found = place + 1
        elif kind == 3:
            last = header(content)
        else:
            assert kind == 0
            break
        at += value * SECTOR
    assert at == len(data)
    assert last == {**first, "directory": found}
    count = -(-first["capacity"] * SECTOR // TABLE)
    assert not any(directory[count:])
    assert len(directory) >= count
    assert {each for each in directory if each} == set(tables)
    found_places = {
        number * 512 + entry: place
        for number, table in enumerate(directory)
        for entry, place in enumerate(tables.get(table, ()))
        if place
    }
    assert found_places == places
    return first["capacity"] * SECTOR, grains


def same(disk: Path, target: Path) -> None:
    if shutil.which("qemu-img"):
        form = ("-f", "raw", "-F", "vmdk", disk, target)
        subprocess.run(["qemu-img", "compare", "-q", *form], check=True)
        subprocess.run(["qemu-img", "check", "-q", "-f", "vmdk", target], check=True)


def expected(disk: Path) -> dict[int, bytes]:
    """Return the grains of a disk that have something, by their number."""
    found = {}
    with disk.open("rb") as file:
        number = 0
        while grain := file.read(GRAIN):
            if any(grain):
                found[number] = grain.ljust(GRAIN, b"\0")
            number += 1
    return found


def content(kind: str, length: int, seed: int) -> bytes:
    if kind == "zeros":
        return bytes(length)
    if kind == "random":
        return random.Random(seed).randbytes(length)
    return (b"%d " % seed * length)[:length]


parts = st.tuples(
    st.integers(0, 3 * TABLE // SECTOR),
    st.sampled_from(["zeros", "random", "text"]),
    st.one_of(st.integers(1, 5000), st.integers(GRAIN - 2, 20 * GRAIN)),
)


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(size=st.integers(1, 3 * TABLE // SECTOR), found=st.lists(parts, max_size=6))
def test_a_disk_comes_back_whatever_it_holds(
    size: int, found: list[tuple[int, str, int]], tmp_path: Path
) -> None:
    disk, target = tmp_path / "disk", tmp_path / "target"
    with disk.open("wb") as file:
        for seed, (sector, kind, length) in enumerate(found):
            file.seek(sector % size * SECTOR)
            file.write(content(kind, length, seed))
        file.truncate(size * SECTOR)
    capacity, grains = followed(written(disk, target))
    assert capacity == size * SECTOR
    assert grains == expected(disk)
    same(disk, target)


@pytest.mark.parametrize("size", [TABLE - SECTOR, TABLE, TABLE + SECTOR, 2 * TABLE])
def test_the_first_and_the_last_sector_of_tables_are_kept(size: int, tmp_path: Path) -> None:
    disk, target = tmp_path / "disk", tmp_path / "target"
    with disk.open("wb") as file:
        file.truncate(size)
        for at in (0, TABLE - SECTOR, TABLE, size - SECTOR):
            if at < size:
                file.seek(at)
                file.write(b"%d" % at)
        file.truncate(size)
    assert followed(written(disk, target)) == (size, expected(disk))
    same(disk, target)


def test_a_disk_of_zeros_has_no_grains_and_holes_are_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk, target = tmp_path / "disk", tmp_path / "target"
    disk.write_bytes(bytes(3 * GRAIN))
    assert followed(written(disk, target)) == (3 * GRAIN, {})
    read = []
    before = os.pread

    def pread(file: int, length: int, at: int) -> bytes:
        read.append((at, length))
        return before(file, length, at)

    monkeypatch.setattr(os, "pread", pread)
    huge = 3 << 40
    with disk.open("r+b") as file:
        file.truncate(huge)
        file.seek(huge - 5)
        file.write(b"x")
    capacity, grains = followed(written(disk, target))
    assert capacity == huge
    assert grains == {huge // GRAIN - 1: b"x".rjust(GRAIN - 4, b"\0") + bytes(4)}
    pieces = sorted(set(read))
    assert sum(length for _, length in read) < 40 * GRAIN
    assert len(pieces) == len(read)  # once
    if shutil.which("qemu-img"):
        last = tmp_path / "last"
        words = ("bs=64k", f"skip={huge // GRAIN - 1}", f"if={target}", f"of={last}")
        subprocess.run(["qemu-img", "dd", "-f", "vmdk", "-O", "raw", *words], check=True)
        assert last.read_bytes() == grains[huge // GRAIN - 1]


def test_the_number_of_processors_does_not_change_the_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path / "disk"
    pieces = (content(("text", "random")[seed % 2], 70_000, seed) for seed in range(200))
    disk.write_bytes(b"".join(pieces))
    results = set()
    for processors in (1, 3, 64):
        given_set = set(range(processors))
        monkeypatch.setattr(os, "sched_getaffinity", lambda _, found=given_set: found)
        results.add(written(disk, tmp_path / "target"))
    assert len(results) == 1


def test_short_reads_are_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk, target = tmp_path / "disk", tmp_path / "target"
    disk.write_bytes(random.Random(1).randbytes(5 * GRAIN))
    before = os.pread
    monkeypatch.setattr(os, "pread", lambda file, size, at: before(file, min(size, 1000), at))
    assert followed(written(disk, target))[1] == expected(disk)


def test_an_error_of_the_target_ends_the_threads(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(random.Random(1).randbytes(400 * GRAIN))
    threads, left = threading.active_count(), [20]

    def sink(data: bytes) -> None:
        left[0] -= 1
        if not left[0]:
            raise OSError(28, "No space left on device")

    with disk.open("rb") as source, pytest.raises(OSError, match="No space") as caught:
        vmdk.write(source.fileno(), sink, IDENTITY)
    assert threading.active_count() == threads, caught  # whoever still has the error


def test_a_file_beyond_what_its_tables_can_say_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(random.Random(1).randbytes(4 * GRAIN))
    monkeypatch.setattr(vmdk, "SECTORS", 300)
    with disk.open("rb") as source, pytest.raises(ImageError, match="at most 2 TiB"):
        vmdk.write(source.fileno(), io.BytesIO().write, IDENTITY)


def test_the_description_has_the_disks_identity() -> None:
    text = vmdk.describe(2048, IDENTITY)
    assert len(text) == 20 * SECTOR
    assert b"\nCID=12345678\n" in text
    assert f'\nddb.uuid.image = "{IDENTITY}"\n'.encode() in text
    assert b'\nRW 2048 SPARSE "disk"\n' in text


@pytest.mark.parametrize("size", [1, (8 << 30) - 1, 8 << 30, 3 << 40])
def test_an_archives_front_is_as_long_whatever_the_disks_size(size: int) -> None:
    machine = ova.Machine("a-b", 1 << 42)
    front = ova._front(machine, "a-b-disk1.vmdk", size, "0" * 64)
    assert len(front) == len(ova._front(machine, "a-b-disk1.vmdk", 0, "0" * 64))
    with tarfile.open(fileobj=io.BytesIO(front)) as archive:
        for _ in range(2):
            assert archive.next()
        member = archive.next()
        assert member
        assert member.size == size
        assert member.name == "a-b-disk1.vmdk"
