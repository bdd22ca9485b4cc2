"""Files that get their names when they are whole."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from typing import IO, TYPE_CHECKING

import pytest

from apppot.errors import ImageError, UsageError
from apppot.image import aside, saving

if TYPE_CHECKING:
    from pathlib import Path

WRITER = """
import os, sys
from apppot.image import aside
open_ = os.open
def without_nameless(path, flags, *more, **named):
    if flags & os.O_TMPFILE == os.O_TMPFILE:
        raise OSError(95, "not supported")
    return open_(path, flags, *more, **named)
if sys.argv[2] == "named":
    os.open = without_nameless
with aside.whole(sys.argv[1]) as file:
    file.write(b"half")
    file.flush()
    print("up", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def _named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no file system have nameless files."""
    real = os.open

    def opened(path: str, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))
        return real(path, flags, mode)

    monkeypatch.setattr("apppot.image.aside.os.open", opened)


def write(path: Path, data: bytes) -> None:
    with aside.whole(str(path)) as file:
        file.write(data)


def fail_after(file: IO[bytes]) -> None:
    file.write(b"three")
    raise OSError(errno.ENOSPC, "full")


def check_whole(folder: Path) -> None:
    target = folder / "out"
    before = os.umask(0o027)
    try:
        write(target, b"one")
        write(target, b"two")
    finally:
        os.umask(before)
    assert target.read_bytes() == b"two"
    assert target.stat().st_mode & 0o777 == 0o640
    with pytest.raises(OSError, match="full"), aside.whole(str(target)) as file:
        fail_after(file)
    assert target.read_bytes() == b"two"
    assert os.listdir(folder) == ["out"]


def test_a_file_is_whole_or_as_it_was(tmp_path: Path) -> None:
    check_whole(tmp_path)


@pytest.mark.usefixtures("_named")
def test_also_without_nameless_files(tmp_path: Path) -> None:
    check_whole(tmp_path)


def start_writer(target: Path, how: str) -> subprocess.Popen[bytes]:
    words = [sys.executable, "-c", WRITER, str(target), how]
    child = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdout
    assert child.stdout.readline() == b"up\n"
    return child


@pytest.mark.parametrize("how", ["nameless", "named"])
def test_the_next_writer_removes_what_a_killed_one_left(tmp_path: Path, how: str) -> None:
    killed, other = (start_writer(tmp_path / name, how) for name in ("one", "two"))
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    assert len(os.listdir(tmp_path)) == (2 if how == "named" else 0)
    write(tmp_path / "three", b"")
    assert len(os.listdir(tmp_path)) == (2 if how == "named" else 1)  # the living one's is left
    other.communicate(b"")
    assert sorted(os.listdir(tmp_path)) == ["three", "two"]
    assert (tmp_path / "two").read_bytes() == b"half"


def test_without_locks_only_what_is_old_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("apppot.image.aside.fcntl.flock", refused)
    old, new = (tmp_path / f"{aside.PREFIX}{name}" for name in ("old", "new"))
    old.touch()
    new.touch()
    os.utime(old, (time.time() - aside.OLD - 9,) * 2)
    write(tmp_path / "out", b"")
    assert sorted(tmp_path.iterdir()) == [new, tmp_path / "out"]


def test_a_link_that_waits_there_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"mine")
    (tmp_path / f"{aside.PREFIX}0").symlink_to(victim)
    write(tmp_path / "out", b"")
    assert victim.read_bytes() == b"mine"


def test_errors_name_the_file(tmp_path: Path) -> None:
    path = str(tmp_path / "missing" / "out")
    with pytest.raises(ImageError, match="missing/out"), aside.explained(path), aside.whole(path):
        pass


def test_a_program_opens_it_by_its_path(tmp_path: Path) -> None:
    with aside.whole(str(tmp_path / "out")) as file:
        subprocess.run(["sh", "-c", 'echo hello >"$0"', aside.path_of(file)], check=True)
    assert (tmp_path / "out").read_bytes() == b"hello\n"


def test_rescued_changes_are_not_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APPPOT_TMPDIR", str(tmp_path))
    descriptor = os.open(tmp_path, os.O_RDWR | os.O_TMPFILE, 0o600)
    with os.fdopen(descriptor, "w+b") as archive:
        archive.write(b"changes")
        archive.flush()
        path = saving.rescue(archive)
        assert os.stat(path).st_ino == os.fstat(descriptor).st_ino


@pytest.mark.parametrize("kind", ["pipe", "link to a device", "folder"])
def test_what_is_no_file_is_not_replaced(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "target"
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(os.devnull)
    before = path.lstat().st_ino
    with pytest.raises(UsageError, match="a file is to be written"):
        write(path, b"new")
    assert path.lstat().st_ino == before
    assert os.listdir(tmp_path) == ["target"]
