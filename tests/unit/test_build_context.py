"""The build context: which files a COPY takes, what they are known by, and how they are packed."""

from __future__ import annotations

import io
import os
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from apppot.errors import ImageError, UsageError
from apppot.image.build import packing
from apppot.image.build.context import Context, Selection, digest, resolve
from apppot.image.build.model import Copy, InlineFile

if TYPE_CHECKING:
    from pathlib import Path


def wrong(message: str, hint: str = "") -> UsageError:
    return UsageError(message, hint=hint)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    top = tmp_path / "context"
    for path, text in {
        "a.txt": "a",
        "b.txt": "b",
        "c d": "space",
        "dir/x": "x",
        "dir/sub/y": "y",
        "dir/sub/z.log": "log",
        "big/1.log": "log",
    }.items():
        file = top / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    (top / "dir" / "link").symlink_to("x")
    (top / "out").symlink_to("/etc/passwd")
    (top / "todir").symlink_to("dir")
    (top / "empty").mkdir()
    (top / "dir" / "x").chmod(0o754)
    (tmp_path / "secret").write_text("no")
    return top


def select(root: Path, *sources: str, target: str = "/t/", **more: Any) -> Selection:
    context = Context.open(str(root), str(root / "Containerfile"))
    copy = Copy(sources, target, **more)
    return context.select(copy, wrong)


def names(root: Path, *sources: str, **more: Any) -> list[str]:
    return sorted(item.name for item in select(root, *sources, **more).items)


def packed(selection: Selection, **more: int) -> dict[str, tarfile.TarInfo]:
    target = io.BytesIO()
    packing.pack(selection.items, target, **more)
    target.seek(0)
    with tarfile.open(fileobj=target) as archive:
        return {packing.plain(member.name): member for member in archive}


@pytest.mark.parametrize(
    ("sources", "wanted"),
    [
        (["a.txt"], ["a.txt"]),
        (["./a.txt"], ["a.txt"]),
        (["/a.txt"], ["a.txt"]),
        (["../../a.txt"], ["a.txt"]),
        (["dir"], [".", "link", "sub", "sub/y", "sub/z.log", "x"]),
        (["dir/"], [".", "link", "sub", "sub/y", "sub/z.log", "x"]),
        (["dir/sub"], [".", "y", "z.log"]),
        (["*.txt"], ["a.txt", "b.txt"]),
        (["[a-b].txt", "c d"], ["a.txt", "b.txt", "c d"]),
        (["dir/*"], ["link", "x", "y", "z.log"]),
        (["a.txt", "none*"], ["a.txt"]),
        (["todir/x"], ["x"]),
        (["todir"], [".", "link", "sub", "sub/y", "sub/z.log", "x"]),
        (["?.txt"], ["a.txt", "b.txt"]),
        (["empty"], ["."]),
    ],
)
def test_sources(root: Path, sources: list[str], wanted: list[str]) -> None:
    assert names(root, *sources) == wanted


@pytest.mark.parametrize("source", ["none", "none*", "out", "../secret", "dir/x/y", "a.txt/.."])
def test_what_is_not_there(root: Path, source: str) -> None:
    if source == "a.txt/..":
        assert "a.txt" in names(root, source)  # as Docker, which shortens the name first
        return
    with pytest.raises(UsageError):
        names(root, source)


def test_one_file_may_be_renamed(root: Path) -> None:
    assert select(root, "a.txt", target="/t").alone
    assert select(root, "a*", target="/t").alone
    assert not select(root, "dir", target="/t").alone
    with pytest.raises(UsageError, match="several files"):
        select(root, "*.txt", target="/t")


def test_links_lead_no_further_than_the_context(root: Path) -> None:
    (root / "up").symlink_to("../../../a.txt")
    (root / "loop").symlink_to("loop")
    assert resolve(str(root), "up") == str(root / "a.txt")
    assert resolve(str(root), "loop") is None
    with pytest.raises(UsageError, match="not in the build context"):
        names(root, "loop")


def test_inline_files(root: Path) -> None:
    found = select(root, "a.txt", files=(InlineFile("F", "text"),))
    assert packed(found)["F"].mode == 0o644
    assert sorted(packed(found)) == ["F", "a.txt"]


# -- .dockerignore ----------------------------------------------------------------------------


def test_ignored_files(root: Path) -> None:
    (root / ".dockerignore").write_text("**/*.log\ndir\n!dir/sub\nb.txt\n")
    assert names(root, "dir") == [".", "sub", "sub/y", "sub/z.log"]
    assert names(root, "*.txt") == ["a.txt"]
    assert "big" in names(root, ".")
    assert "big/1.log" not in names(root, ".")
    with pytest.raises(UsageError, match=r"left out by \.dockerignore"):
        names(root, "b.txt")


def test_which_ignore_file(root: Path) -> None:
    (root / ".dockerignore").write_text("a.txt")
    (root / ".containerignore").write_text("b.txt")
    assert names(root, "*.txt") == ["a.txt"]
    (root / "Containerfile.dockerignore").write_text("c d")
    assert names(root, "*.txt") == ["a.txt", "b.txt"]


def test_a_context_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a folder"):
        Context.open(str(tmp_path / "none"), "x")


# -- digests ----------------------------------------------------------------------------------


def known(root: Path, *sources: str, **more: Any) -> str:
    copy = Copy(sources, "/t/", **more)
    return digest(select(root, *sources, **more), copy)


def test_times_do_not_count(root: Path) -> None:
    before = known(root, "dir")
    os.utime(root / "dir" / "x", (1, 1))
    os.utime(root / "dir", (1, 1))
    assert known(root, "dir") == before


def test_everything_else_counts(root: Path) -> None:
    seen = {known(root, "dir")}
    (root / "dir" / "x").write_text("other")
    seen.add(known(root, "dir"))
    (root / "dir" / "x").chmod(0o700)
    seen.add(known(root, "dir"))
    (root / "dir" / "link").unlink()
    seen.add(known(root, "dir"))
    (root / "dir" / "link").symlink_to("sub")
    seen.add(known(root, "dir"))
    (root / "dir" / "x").rename(root / "dir" / "w")
    seen.add(known(root, "dir"))
    (root / "dir" / "new").mkdir()
    seen.add(known(root, "dir"))
    seen.add(known(root, "dir", mode=0o600))
    assert len(seen) == 8


def test_what_is_not_copied_does_not_count(root: Path) -> None:
    (root / ".dockerignore").write_text("**/*.log")
    before = known(root, "dir")
    (root / "dir" / "sub" / "z.log").write_text("more")
    (root / "a.txt").write_text("more")
    assert known(root, "dir") == before


# -- archives ---------------------------------------------------------------------------------


def test_files_are_roots_and_keep_mode_and_time(root: Path) -> None:
    os.utime(root / "dir" / "x", ns=(0, 1_234_567_890_123_456_789))
    found = packed(select(root, "dir"))
    assert found["x"].mode == 0o754
    assert found["x"].pax_headers["mtime"] == "1234567890.123456789"
    assert (found["x"].uid, found["x"].gid, found["x"].uname) == (0, 0, "")
    assert found["link"].linkname == "x"
    assert found["."].isdir()


def test_a_mode_for_all(root: Path) -> None:
    found = packed(select(root, "dir"), mode=0o640)
    assert {name: found[name].mode for name in ("x", "sub", "link")} == {
        "x": 0o640,
        "sub": 0o640,
        "link": 0o777,
    }


def test_hard_links_stay(root: Path) -> None:
    os.link(root / "dir" / "x", root / "dir" / "x2")
    found = packed(select(root, "dir"))
    assert found["x2"].islnk()
    assert found["x2"].linkname == "x"


def test_a_socket_is_passed_over(root: Path) -> None:
    import socket

    with socket.socket(socket.AF_UNIX) as server:
        here = os.getcwd()
        os.chdir(root / "dir")  # a socket's address is short
        try:
            server.bind("socket")
        finally:
            os.chdir(here)
    assert "socket" not in names(root, "dir")


@pytest.mark.parametrize("kind", ["", "gz", "bz2", "xz"])
def test_add_unpacks_archives(root: Path, kind: str) -> None:
    member = tarfile.TarInfo("./in/file")
    member.uid, member.gid, member.mode, member.size = 7, 8, 0o4755, 3
    with tarfile.open(root / "archive", f"w:{kind}") as archive:  # type: ignore[call-overload]
        archive.addfile(member, io.BytesIO(b"abc"))
        link = tarfile.TarInfo("./in/same")
        link.type, link.linkname = tarfile.LNKTYPE, "./in/file"
        archive.addfile(link)
    found = packed(select(root, "archive", unpack=True))
    assert sorted(found) == ["in/file", "in/same"]
    assert (found["in/file"].uid, found["in/file"].gid, found["in/file"].mode) == (7, 8, 0o4755)
    assert found["in/same"].linkname == "in/file"
    assert sorted(packed(select(root, "archive"))) == ["archive"]
    assert sorted(packed(select(root, "a.txt", unpack=True))) == ["a.txt"]


def test_an_archive_that_leads_out_is_refused(root: Path) -> None:
    with tarfile.open(root / "archive", "w") as archive:
        archive.addfile(tarfile.TarInfo("../evil"))
    with pytest.raises(ImageError, match="leads out"):
        packed(select(root, "archive", unpack=True))


def test_a_damaged_archive_is_an_error(root: Path) -> None:
    with tarfile.open(root / "archive", "w:gz") as archive:
        archive.add(root / "dir", "dir")
        member = tarfile.TarInfo("x")
        member.size = 1 << 20
        archive.addfile(member, io.BytesIO(os.urandom(1 << 20)))
    data = (root / "archive").read_bytes()
    (root / "archive").write_bytes(data[: len(data) // 2])
    with pytest.raises(ImageError, match="cannot be read"):
        packed(select(root, "archive", unpack=True))


def test_files_of_another_stage_get_new_names() -> None:
    source = io.BytesIO()
    with tarfile.open(fileobj=source, mode="w") as archive:
        for name in ("usr/lib", "usr/lib/sub", "usr/lib/sub/x"):
            member = tarfile.TarInfo(name)
            if not name.endswith("x"):
                member.type = tarfile.DIRTYPE
            member.uid = 5
            archive.addfile(member)
        link = tarfile.TarInfo("usr/lib/same")
        link.type, link.linkname = tarfile.LNKTYPE, "usr/lib/sub/x"
        archive.addfile(link)
        archive.addfile(tarfile.TarInfo("usr/libfile"))
    found = packing.matches(source)
    assert [(match.top, match.folder) for match in found] == [
        ("usr/lib", True),
        ("usr/libfile", False),
    ]
    target = io.BytesIO()
    packing.move(found, target)
    target.seek(0)
    with tarfile.open(fileobj=target) as archive:
        members = {packing.plain(member.name): member for member in archive}
    assert sorted(members) == ["libfile", "same", "sub", "sub/x"]
    assert members["same"].linkname == "sub/x"
    assert members["sub/x"].uid == 5
