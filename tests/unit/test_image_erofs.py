"""Layers hold exactly what the archive holds, and depend on nothing else."""

from __future__ import annotations

import hashlib
import io
import os
import random
import stat
import subprocess
import tarfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apppot.image import tarstream
from tests.unit.erofs_archives import TREES, File, archived, make, needs_mkfs
from tests.unit.erofs_reader import Node, Reader


def expected(file: File, node: Node) -> None:
    """Compare a file with what a layer has."""
    formats = {
        tarfile.REGTYPE: stat.S_IFREG,
        tarfile.AREGTYPE: stat.S_IFREG,
        tarfile.DIRTYPE: stat.S_IFDIR,
        tarfile.SYMTYPE: stat.S_IFLNK,
        tarfile.CHRTYPE: stat.S_IFCHR,
        tarfile.BLKTYPE: stat.S_IFBLK,
        tarfile.FIFOTYPE: stat.S_IFIFO,
    }
    assert node.mode == formats[file.kind] | file.mode
    assert (node.uid, node.gid) == (file.uid, file.gid)
    assert (node.mtime, node.nanoseconds) == (file.mtime, file.nanoseconds)
    assert node.xattrs == file.xattrs
    if file.kind in (tarfile.REGTYPE, tarfile.AREGTYPE):
        assert node.data == file.data
    if file.kind == tarfile.SYMTYPE:
        assert node.data == file.target
    if file.kind in (tarfile.CHRTYPE, tarfile.BLKTYPE):
        assert node.device == file.device


@pytest.fixture(scope="module")
def layer_path(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tmp_path_factory.mktemp("erofs") / "layer")


@needs_mkfs
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(files=TREES, seed=st.integers())
def test_layer_holds_what_the_archive_holds(files: list[File], seed: int, layer_path: str) -> None:
    make(archived(files), layer_path)
    tree = Reader(layer_path).tree()
    for file in files:
        expected(file, tree[file.path])
    given_paths = {file.path for file in files}
    for path in set(tree) - given_paths:  # only folders that the archive took for granted
        assert path == b"." or any(p.startswith(path + b"/") for p in given_paths)
        assert stat.S_ISDIR(tree[path].mode)
    first = Path(layer_path).read_bytes()
    random.Random(seed).shuffle(files)
    make(archived(files), layer_path)
    assert Path(layer_path).read_bytes() == first


@needs_mkfs
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_hard_links_share_one_file_in_any_order(order: tuple[int, ...], tmp_path: Path) -> None:
    entries = [("usr/bin/perl", ""), ("usr/bin/perl5", "usr/bin/perl"), ("a", "usr/bin/perl5")]
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as out:
        for index in order:
            name, link = entries[index]
            info = tarfile.TarInfo(name)
            info.mode, info.uid = 0o4755, 7
            if link:
                info.type, info.linkname = tarfile.LNKTYPE, link
            else:
                info.size = 3
            out.addfile(info, io.BytesIO(b"abc"))
    archive.seek(0)
    path = str(tmp_path / "layer")
    make(archive, path)
    tree = Reader(path).tree()
    names = (b"usr/bin/perl", b"usr/bin/perl5", b"a")
    assert len({tree[name].nid for name in names}) == 1
    node = tree[b"a"]
    assert (node.links, node.data, node.mode, node.uid) == (3, b"abc", 0o104755, 7)
    assert hashlib.sha256(Path(path).read_bytes()).hexdigest() == linked_digest(tmp_path)


def linked_digest(tmp_path: Path) -> str:
    """Return the digest that all orders give: that of the plainest archive."""
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as out:
        info = tarfile.TarInfo("a")
        info.mode, info.uid, info.size = 0o4755, 7, 3
        out.addfile(info, io.BytesIO(b"abc"))
        for name in ("usr/bin/perl", "usr/bin/perl5"):
            info = tarfile.TarInfo(name)
            info.type, info.linkname = tarfile.LNKTYPE, "a"
            out.addfile(info)
    archive.seek(0)
    path = str(tmp_path / "plain")
    make(archive, path)
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


@needs_mkfs
@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_sparse_files_keep_their_contents(form: str, tmp_path: Path) -> None:
    sparse = tmp_path / "sparse"
    with sparse.open("wb") as file:
        file.write(b"begin")
        file.seek(3 << 20)
        file.write(b"middle")
        file.truncate(5 << 20)
    archive = tmp_path / "sparse.tar"
    subprocess.run(
        ["tar", "-C", tmp_path, f"--format={form}", "--sparse", "-cf", archive, "sparse"],
        check=True,
    )
    assert archive.stat().st_size < 1 << 20
    path = str(tmp_path / "layer")
    make(io.BytesIO(archive.read_bytes()), path)
    assert Reader(path).tree()[b"sparse"].data == sparse.read_bytes()


@needs_mkfs
def test_identifiers_are_fixed(tmp_path: Path) -> None:
    path = str(tmp_path / "layer")
    make(archived([]), path)
    reader = Reader(path)
    assert (reader.uuid, reader.build_time, reader.block) == (bytes(16), 0, 4096)


@needs_mkfs
def test_the_environment_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    file = File(b"x", tarfile.REGTYPE, 0o644, 0, 0, 2**33, 5, b"abc", b"x", (0, 0), {})
    make(archived([file]), one)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    os.umask(0o077)
    try:
        make(archived([file]), two)
    finally:
        os.umask(0o022)
    assert Path(one).read_bytes() == Path(two).read_bytes()


def test_a_later_entry_stands_for_the_path() -> None:
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as out:
        for name, data in (("d/f", b"old"), ("d/g", b"stays"), ("d/f", b"new")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            out.addfile(info, io.BytesIO(data))
        info = tarfile.TarInfo("d")
        info.type, info.mode = tarfile.DIRTYPE, 0o700
        out.addfile(info)
    archive.seek(0)
    out_file = io.BytesIO()
    tarstream.normalise(archive, out_file)
    out_file.seek(0)
    with tarfile.open(fileobj=out_file) as found:
        assert found.getnames() == [".", "d", "d/f", "d/g"]
        contents = found.extractfile("d/f")
        assert contents is not None
        assert contents.read() == b"new"
        assert found.getmember("d").mode == 0o700
