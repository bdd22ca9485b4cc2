"""Archives that are no layers, and a mkfs.erofs that fails."""

from __future__ import annotations

import contextlib
import io
import os
import tarfile
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from apppot.errors import ImageError
from apppot.image import erofs, tarstream
from tests.children import children
from tests.unit.erofs_archives import File, archived, make, needs_mkfs

if TYPE_CHECKING:
    from pathlib import Path


def entry(
    name: str, kind: bytes = tarfile.REGTYPE, link: str = "", minor: int = 0
) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.devminor = kind, link, minor
    return info


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([entry("../etc/passwd")], "leads out"),
        ([entry("a/../../b")], "leads out"),
        ([entry("a"), entry("a/b")], "below 'a', not a folder"),
        ([entry("a", tarfile.LNKTYPE, "b")], "hard link to 'b', which is no file"),
        ([entry("a", tarfile.LNKTYPE, "b"), entry("b", tarfile.LNKTYPE, "a")], "hard link"),
        ([entry("a", tarfile.DIRTYPE), entry("b", tarfile.LNKTYPE, "a")], "hard link"),
        ([entry("x" * 256)], "longer than 255 bytes"),
        ([entry("x", tarfile.CHRTYPE, minor=1 << 19)], "device 0:524288, out of range"),
    ],
)
def test_what_a_layer_cannot_hold_is_an_error(entries: list[tarfile.TarInfo], message: str) -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as out:
        for info in entries:
            out.addfile(info)
    archive.seek(0)
    with pytest.raises(ImageError, match=message):
        tarstream.normalise(archive, io.BytesIO())


@example(data=b"\x80", cut=528)  # in the name of an extended attribute
@given(data=st.binary(max_size=2000), cut=st.integers(0, 30_000))
@settings(max_examples=150, deadline=None)
def test_damaged_archives_are_an_error_or_read_but_never_a_crash(data: bytes, cut: int) -> None:
    file = File(
        b"x/y", tarfile.REGTYPE, 0o644, 1, 2, 3, 4, b"z" * 9000, b"t", (0, 0), {b"user.a": b"b"}
    )
    whole = archived([file]).getvalue()
    for damaged in (
        data,
        whole[:cut],
        whole[: cut % 4096] + data + whole[cut % 4096 + len(data) :],
    ):
        with contextlib.suppress(ImageError):
            tarstream.normalise(io.BytesIO(damaged), io.BytesIO())


@needs_mkfs
def test_an_error_in_the_archive_leaves_no_process_and_no_layer(tmp_path: Path) -> None:
    whole = archived(
        [File(b"x", tarfile.REGTYPE, 0o644, 0, 0, 0, 0, b"z" * 70_000, b"t", (0, 0), {})]
    ).getvalue()
    with pytest.raises(ImageError, match="archive is damaged"):
        make(io.BytesIO(whole[:40_000]), str(tmp_path / "layer"))
    assert children() == []


def test_mkfs_that_fails_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake = tmp_path / "mkfs.erofs"
    fake.write_text("#!/bin/sh\necho '<E> erofs: I will not' >&2\nexit 3\n")
    fake.chmod(0o755)
    monkeypatch.setenv("APPPOT_MKFS_EROFS", str(fake))
    with pytest.raises(ImageError, match=r"failed with status 3\n<E> erofs: I will not"):
        make(archived([]), str(tmp_path / "layer"))


def test_mkfs_that_says_nothing_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APPPOT_MKFS_EROFS", "/bin/true")
    with pytest.raises(ImageError):
        make(archived([]), str(tmp_path / "layer"))


def test_a_disk_that_is_too_small_is_told_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = os.statvfs(tmp_path)
    monkeypatch.setattr(
        os, "statvfs", lambda _: SimpleNamespace(f_bavail=1, f_frsize=found.f_frsize)
    )
    monkeypatch.setenv("APPPOT_MKFS_EROFS", "/bin/false")
    with pytest.raises(ImageError, match="only 0 MiB are free") as error:
        make(archived([]), str(tmp_path / "layer"))
    assert "APPPOT_STORE" in error.value.hint


@pytest.mark.parametrize(
    "data", [b"", b"x" * 5000, bytes(1024) + erofs.MAGIC + bytes(8) + b"\x09" * 9]
)
def test_check_refuses_other_files(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "layer"
    path.write_bytes(data)
    with pytest.raises(ImageError):
        erofs.check(str(path))
