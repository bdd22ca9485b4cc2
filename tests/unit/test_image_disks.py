from __future__ import annotations

import contextlib
import io
import os
import shutil
import struct
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apppot.errors import AppPotError, ImageError, UsageError
from apppot.image import diskfs, disks, parttable
from tests.unit.disk_tables import (
    LINUX,
    ROOT,
    SECTOR,
    boot_sector,
    entry,
    gpt,
    mbr,
    put,
    put_ext,
)

if TYPE_CHECKING:
    from pathlib import Path

SIZE = 1 << 20
SECTORS = SIZE // SECTOR


def table(disk: bytes | bytearray) -> parttable.Table | None:
    return parttable.read_table(io.BytesIO(disk), len(disk), "disk")


def root(path: Path, disk: bytes | bytearray, partition: int | None = None) -> disks.Root:
    file = path / "disk.img"
    file.write_bytes(disk)
    return disks.find_root(str(file), partition)


def test_primary_partitions_lie_where_the_table_says() -> None:
    found = table(mbr(SIZE, entry(0x82, 64, 64), entry(0x83, 128, 512, 0x80)))
    assert found == parttable.Table(
        "MBR",
        (
            parttable.Partition(1, 64 * 512, 64 * 512, "0x82"),
            parttable.Partition(2, 128 * 512, 512 * 512, "0x83"),
        ),
    )


def test_logical_partitions_count_from_five() -> None:
    disk = mbr(SIZE, entry(0x83, 64, 64), entry(0x05, 256, 1024))
    put(disk, 256 * SECTOR, boot_sector(entry(0x83, 8, 100), entry(0x05, 200, 300)))
    put(disk, 456 * SECTOR, boot_sector(entry(0x82, 8, 50)))
    found = table(disk)
    assert found is not None
    assert [(p.number, p.offset // SECTOR, p.size // SECTOR) for p in found.partitions] == [
        (1, 64, 64),
        (5, 264, 100),
        (6, 464, 50),
    ]


@pytest.mark.parametrize("following", [200, 0xFFFFFF00, 5000])
def test_chain_of_logical_partitions_that_never_ends_or_leads_out(following: int) -> None:
    disk = mbr(SIZE, entry(0x05, 256, 1024))
    put(disk, 256 * SECTOR, boot_sector(entry(0x83, 8, 100), entry(0x05, following, 300)))
    put(disk, 456 * SECTOR, boot_sector(entry(0x83, 8, 50), entry(0x05, 200, 300)))
    with pytest.raises(parttable.DamagedTableError, match="chain of logical partitions"):
        table(disk)


def test_partition_beyond_the_end_is_an_image_that_was_cut_off() -> None:
    with pytest.raises(parttable.DamagedTableError, match="partition 1 ends at byte") as error:
        table(mbr(SIZE, entry(0x83, 64, SECTORS)))
    assert "cut off" in error.value.hint


def test_boot_sector_of_a_file_system_is_no_table() -> None:
    code = bytearray(os.urandom(510))
    code[446] = 0x31
    assert table(bytes(code) + b"\x55\xaa" + bytes(SIZE)) is None


@pytest.mark.parametrize("sector", [512, 4096])
def test_gpt_of_both_sector_sizes(sector: int) -> None:
    found = table(gpt(SIZE, [(LINUX, 64, 70), (ROOT, 80, 99)], sector=sector))
    assert found == parttable.Table(
        "GPT",
        (
            parttable.Partition(1, 64 * sector, 7 * sector, LINUX),
            parttable.Partition(2, 80 * sector, 20 * sector, ROOT),
        ),
    )


@pytest.mark.parametrize("at", [SECTOR + 24, 2 * SECTOR + 40, SECTOR])
def test_backup_takes_the_place_of_a_damaged_header(at: int) -> None:
    sound = gpt(SIZE, [(ROOT, 80, 99)])
    disk = bytearray(sound)
    disk[at] ^= 0xFF
    assert table(disk) == table(sound)


def test_both_headers_damaged() -> None:
    disk = gpt(SIZE, [(ROOT, 80, 99)])
    disk[SECTOR + 20] ^= 1
    disk[-SECTOR + 20] ^= 1
    with pytest.raises(parttable.DamagedTableError, match="primary header: the checksum is wrong"):
        table(disk)


def test_protective_mbr_without_gpt() -> None:
    with pytest.raises(parttable.DamagedTableError, match="without any header"):
        table(mbr(SIZE, entry(0xEE, 1, SECTORS - 1)))


@pytest.mark.parametrize(
    ("what", "compatible", "incompatible"),
    [("ext2", 0, 2), ("ext3", 4, 2), ("ext4", 4, 0x42)],
)
def test_whole_disk_is_a_file_system(
    tmp_path: Path, what: str, compatible: int, incompatible: int
) -> None:
    disk = bytearray(SIZE)
    put_ext(disk, 0, 1024, compatible=compatible, incompatible=incompatible)
    found = root(tmp_path, disk)
    assert (found.partition, found.offset, found.size) == (0, 0, SIZE)
    assert (found.content.what, found.content.type) == (what, "ext4")
    assert not found.content.dirty


def test_journal_that_was_not_replayed_is_told(tmp_path: Path) -> None:
    disk = bytearray(SIZE)
    put_ext(disk, 0, 1024, incompatible=0x44)
    found = root(tmp_path, disk)
    assert found.content.dirty
    assert any("not unmounted cleanly" in line for line in disks.describe(found))


def test_root_type_goes_before_the_order(tmp_path: Path) -> None:
    disk = gpt(SIZE, [(LINUX, 64, 163), (ROOT, 200, 299)])
    put_ext(disk, 64 * SECTOR, 50)
    put_ext(disk, 200 * SECTOR, 50)
    assert root(tmp_path, disk).partition == 2
    assert root(tmp_path, disk, 1).partition == 1


def test_partition_of_boot_files_is_passed_over(tmp_path: Path) -> None:
    disk = mbr(SIZE, entry(0x83, 64, 100), entry(0x82, 170, 10), entry(0x83, 200, 100))
    put_ext(disk, 64 * SECTOR, 50, mounted="/boot")
    put_ext(disk, 200 * SECTOR, 50, mounted="/")
    assert root(tmp_path, disk).partition == 3


def test_partition_that_is_not_there_or_not_usable(tmp_path: Path) -> None:
    disk = mbr(SIZE, entry(0x82, 64, 100), entry(0x8E, 200, 100))
    put(disk, 64 * SECTOR + 4086, b"SWAPSPACE2")
    put(disk, 200 * SECTOR + 0x218, b"LVM2 001")
    with pytest.raises(UsageError, match="no such partition"):
        root(tmp_path, disk, 3)
    with pytest.raises(ImageError, match="partition 2 cannot be run: it is a volume of LVM"):
        root(tmp_path, disk, 2)
    with pytest.raises(ImageError, match="no partition with a root file system") as error:
        root(tmp_path, disk)
    assert "1 is swap space; 2 is a volume of LVM" in error.value.hint


@pytest.mark.parametrize(
    ("at", "magic", "says"),
    [
        (0, b"LUKS\xba\xbe", "encrypted"),
        (0, b"QFI\xfb", "qemu-img convert"),
        (0, b"OOOM", "uml_moo"),
        (0, b"\x1f\x8b", "uncompress"),
        (257, b"ustar", "apppot import"),
        (0x218, b"LVM2 001", "LVM"),
        (0x10040, b"_BHRfS_M", "btrfs"),
        (0, b"nothing", "no known file system"),
    ],
)
def test_what_cannot_be_run_is_named(tmp_path: Path, at: int, magic: bytes, says: str) -> None:
    disk = bytearray(SIZE)
    put(disk, at, magic)
    with pytest.raises(ImageError) as error:
        root(tmp_path, disk)
    assert says in str(error.value)


def test_file_system_that_was_cut_off(tmp_path: Path) -> None:
    disk = bytearray(SIZE)
    put_ext(disk, 0, 4096)
    with pytest.raises(ImageError, match="4194304 bytes, but there is room for 1048576"):
        root(tmp_path, disk)


def test_files_that_are_no_disks(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="is a folder"):
        disks.find_root(str(tmp_path))
    with pytest.raises(ImageError, match="No such file"):
        disks.find_root(str(tmp_path / "missing"))
    empty = tmp_path / "empty"
    empty.touch()
    with pytest.raises(ImageError, match="no disk image"):
        disks.find_root(str(empty))


def test_identity_follows_the_contents_and_not_the_path(tmp_path: Path) -> None:
    disk = bytearray(SIZE)
    put_ext(disk, 0, 1024)
    first = root(tmp_path, disk).identity
    (tmp_path / "disk.img").rename(tmp_path / "other.img")
    assert disks.find_root(str(tmp_path / "other.img")).identity == first
    struct.pack_into("<I", disk, 1024 + 0x30, 77)  # the time of the last write
    assert root(tmp_path, disk).identity != first


def test_one_writer_or_many_readers(tmp_path: Path) -> None:
    path = str(tmp_path / "disk.img")
    (tmp_path / "disk.img").touch()
    readers = [disks.lock(path, write=False) for _ in range(3)]
    with pytest.raises(ImageError, match="in use by another machine, so that it cannot be written"):
        disks.lock(path, write=True)
    for descriptor in readers:
        os.close(descriptor)
    writer = disks.lock(path, write=True)
    with pytest.raises(ImageError, match="which writes to it"):
        disks.lock(path, write=False)
    with pytest.raises(ImageError, match="cannot be written"):
        disks.lock(path, write=True)
    os.close(writer)
    os.close(disks.lock(path, write=False))


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("label: dos\n,4M,82\n,8M,83\n", [(1, 4), (2, 8)]),
        ("label: dos\n,4M,82\n,,5\n,2M,83\n,8M,83\n", [(1, 4), (5, 2), (6, 8)]),
        ("label: gpt\n,4M,U\n,8M,L\n", [(1, 4), (2, 8)]),
    ],
)
def test_tables_of_sfdisk(tmp_path: Path, script: str, expected: list[tuple[int, int]]) -> None:
    program = shutil.which("sfdisk") or shutil.which("/usr/sbin/sfdisk")
    if not program:
        pytest.skip("sfdisk is not installed (package fdisk)")
    path = tmp_path / "disk.img"
    with path.open("wb") as file:
        file.truncate(32 << 20)
    subprocess.run([program, "-q", str(path)], input=script.encode(), check=True)
    with path.open("rb") as file:
        found = parttable.read_table(file, 32 << 20, "disk")
    assert found is not None
    assert [(p.number, p.size >> 20) for p in found.partitions] == expected


BASES = [
    bytes(mbr(1 << 16, entry(0x83, 8, 16), entry(0x05, 32, 64))),
    bytes(gpt(1 << 16, [(LINUX, 48, 60), (ROOT, 64, 80)])),
    bytes(1 << 16),
]


@settings(max_examples=400, deadline=None)
@given(
    base=st.integers(0, len(BASES) - 1),
    changes=st.lists(st.tuples(st.integers(0, 20 * SECTOR), st.binary(max_size=24)), max_size=8),
    length=st.integers(0, 1 << 16),
)
def test_no_bytes_lead_to_anything_but_a_clear_error(
    base: int, changes: list[tuple[int, bytes]], length: int
) -> None:
    disk = bytearray(BASES[base])
    for at, data in changes:
        put(disk, at, data)
    disk = disk[:length]
    file = io.BytesIO(disk)
    found = None
    with contextlib.suppress(AppPotError):
        found = parttable.read_table(file, len(disk), "disk")
    for each in found.partitions if found else ():
        assert each.offset > 0
        assert each.offset + each.size <= len(disk)
        diskfs.identify(file, each.offset, each.size)
    diskfs.identify(file, 0, len(disk))
