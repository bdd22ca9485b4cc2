"""Layers hold exactly what the archive holds, and depend on nothing else."""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import random
import stat
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from apppot.errors import AppPotError, ImageError
from apppot.image import erofs, tarstream
from tests.children import children
from tests.unit.erofs_reader import Node, Reader

try:
    PROGRAM = erofs.mkfs_program()
except AppPotError as error:
    PROGRAM = ""
    WHY = str(error)
else:
    WHY = ""
needs_mkfs = pytest.mark.skipif(not PROGRAM, reason=f"needs mkfs.erofs: {WHY}")

SIZES = (0, 1, 511, 512, 4095, 4096, 4097, 12_288, 70_000)
NAME = st.binary(min_size=1, max_size=40).filter(
    lambda n: (
        b"/" not in n and b"\0" not in n and n not in (b".", b"..") and not n.startswith(b".wh.")
    )
)
LONG = st.integers(200, 255).map(lambda n: b"n" * n)
PATH = st.lists(st.one_of(NAME, NAME, LONG), min_size=1, max_size=4).map(b"/".join)
ATTRIBUTE = st.tuples(
    st.sampled_from((b"user.", b"trusted.", b"security.")),
    st.from_regex(rb"[a-z.]{1,20}", fullmatch=True),
).map(b"".join)


@dataclass(frozen=True)
class File:
    """What is put into an archive."""

    path: bytes
    kind: bytes
    mode: int
    uid: int
    gid: int
    mtime: int
    nanoseconds: int
    data: bytes
    target: bytes
    device: tuple[int, int]
    xattrs: dict[bytes, bytes]


def one_file() -> st.SearchStrategy[File]:
    identity = st.one_of(st.integers(0, 70_000), st.integers(0, 2**32 - 2))
    return st.builds(
        File,
        path=PATH,
        kind=st.sampled_from(
            (
                tarfile.REGTYPE,
                tarfile.REGTYPE,
                tarfile.AREGTYPE,
                tarfile.DIRTYPE,
                tarfile.SYMTYPE,
                tarfile.CHRTYPE,
                tarfile.BLKTYPE,
                tarfile.FIFOTYPE,
            )
        ),
        mode=st.integers(0, 0o7777),
        uid=identity,
        gid=identity,
        mtime=st.one_of(st.integers(0, 2**31), st.integers(0, 2**40)),
        nanoseconds=st.one_of(st.just(0), st.integers(0, 999_999_999)),
        data=st.builds(
            lambda size, seed: hashlib.shake_128(seed).digest(size),
            st.sampled_from(SIZES),
            st.binary(max_size=3),
        ),
        target=st.binary(min_size=1, max_size=300).filter(lambda t: b"\0" not in t),
        device=st.tuples(st.integers(0, 4095), st.integers(1, 2**19 - 1)),  # 0:0 deletes
        xattrs=st.dictionaries(ATTRIBUTE, st.binary(max_size=60), max_size=4),
    )


def consistent(files: list[File]) -> list[File]:
    """Leave out the files that are below another that is no folder, and second ones."""
    kept: dict[bytes, File] = {}
    for file in files:
        parts = file.path.split(b"/")
        parents = [b"/".join(parts[:n]) for n in range(1, len(parts))]
        if any(p in kept and kept[p].kind != tarfile.DIRTYPE for p in parents):
            continue
        if file.path in kept or any(
            path.startswith(file.path + b"/") and file.kind != tarfile.DIRTYPE for path in kept
        ):
            continue
        kept[file.path] = file
    return list(kept.values())


TREES = st.lists(one_file(), max_size=12).map(consistent)


def text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def archived(files: list[File]) -> io.BytesIO:
    """Return an archive of the files, in this order."""
    out = io.BytesIO()
    with tarfile.open(
        fileobj=out, mode="w", format=tarfile.PAX_FORMAT, errors="surrogateescape"
    ) as archive:
        for file in files:
            info = tarfile.TarInfo("./" + text(file.path))
            info.type, info.mode, info.uid, info.gid = file.kind, file.mode, file.uid, file.gid
            info.mtime = file.mtime
            headers = {f"SCHILY.xattr.{text(k)}": text(v) for k, v in file.xattrs.items()}
            if file.nanoseconds:
                fraction = f"{file.nanoseconds:09}".rstrip("0")
                headers["mtime"] = f"{file.mtime}.{fraction}"
            info.pax_headers = headers
            if file.kind in (tarfile.CHRTYPE, tarfile.BLKTYPE):
                info.devmajor, info.devminor = file.device
            if file.kind == tarfile.SYMTYPE:
                info.linkname = text(file.target)
            regular = file.kind in (tarfile.REGTYPE, tarfile.AREGTYPE)
            info.size = len(file.data) if regular else 0
            archive.addfile(info, io.BytesIO(file.data) if regular else None)
    out.seek(0)
    return out


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


def make(archive: io.BytesIO, path: str) -> None:
    Path(path).touch()
    erofs.make(archive, path)


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
