"""SIF files that are written can be read: by the specification's places, and by our own import."""

from __future__ import annotations

import shutil
import struct
import subprocess
from typing import TYPE_CHECKING

import pytest

from apppot.errors import ImageError
from apppot.image import export, importing, sif
from tests.unit.test_image_tar import made

if TYPE_CHECKING:
    from pathlib import Path


def test_a_sif_file_has_its_parts_where_the_specification_says(tmp_path: Path) -> None:
    inner, target = tmp_path / "squash", tmp_path / "x.sif"
    content = b"hsqs" + bytes(36) + struct.pack("<Q", 5000) + bytes(8192 - 48)
    inner.write_bytes(content)
    sif.write(str(inner), str(target), created="2026-01-02T03:04:05Z")
    data = target.read_bytes()
    assert data.startswith(b"#!/usr/bin/env run-singularity\n\0SIF_MAGIC\x0001\x0002\0")
    # pkg/sif: header 128 bytes, 48 descriptors of 585 bytes at 4096, data from 32176
    assert (sif.HEADER.size, sif.DESCRIPTOR.size, sif.DATA_AT) == (128, 585, 32176)
    created, _, free, total, place, size, begin, length = struct.unpack_from("<8q", data, 64)
    assert (created, free, total, place) == (1767323045, 47, 48, 4096)
    assert (size, begin, begin + length) == (48 * 585, 32176, len(data))
    with target.open("rb") as file:
        offset = importing.sif_partition(file, str(target))
        assert offset % 4096 == 0
        assert importing.squashfs_size(file, offset, str(target)) == 5120
    assert data[offset:] == content
    again = tmp_path / "again.sif"
    sif.write(str(inner), str(again), created="2026-01-02T03:04:05Z")
    assert again.read_bytes() == data


def test_a_file_that_ends_within_what_linux_reads(tmp_path: Path) -> None:
    """Linux reads a squashfs in blocks of 1024 bytes, and a part of a disk has whole sectors."""
    target = tmp_path / "x"
    target.write_bytes(b"hsqs" + bytes(36) + struct.pack("<Q", 5000) + bytes(5000 - 48))
    with target.open("rb") as file, pytest.raises(ImageError, match="ends within") as error:
        importing.squashfs_size(file, 0, str(target))
    assert "truncate -s %1024" in error.value.hint


@pytest.mark.skipif(not shutil.which("sqfstar"), reason="not installed: squashfs-tools")
def test_the_topmost_folder_of_a_squashfs(tmp_path: Path) -> None:
    target = tmp_path / "x"
    export._squash(made((".", "d"), ("a", "f")), str(target), str(tmp_path))
    words = ["unsquashfs", "-ll", str(target)]
    listed = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    assert listed[0].split()[:2] == ["drwxr-x--x", "root/root"]  # 0751
