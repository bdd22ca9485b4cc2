"""SIF files that are written can be read: by the specification's places, and by our own import."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from apppot.image import importing, sif

if TYPE_CHECKING:
    from pathlib import Path


def test_a_sif_file_has_its_parts_where_the_specification_says(tmp_path: Path) -> None:
    inner, target = tmp_path / "squash", tmp_path / "x.sif"
    content = b"hsqs" + bytes(36) + struct.pack("<Q", 5000) + bytes(4952)
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
        assert importing.squashfs_size(file, offset, str(target)) == 5000
    assert data[offset:] == content
    again = tmp_path / "again.sif"
    sif.write(str(inner), str(again), created="2026-01-02T03:04:05Z")
    assert again.read_bytes() == data
