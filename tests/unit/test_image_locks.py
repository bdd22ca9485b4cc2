"""Locks keep out, end with their holders, and do so on file systems that have none."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from apppot.errors import ImageError
from apppot.image import locks
from apppot.image.locks import held
from apppot.image.store import Store
from tests.unit.stores import add, store

__all__ = ["store"]  # a fixture
NOLOCKS = os.path.join(os.path.dirname(__file__), "..", "nolocks")


@pytest.fixture(params=["flock", "leases"])
def folder(request: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return a folder for locks, on file systems with and without them."""
    if request.param == "leases":
        without_locks(monkeypatch)
    return str(tmp_path)


def without_locks(monkeypatch: pytest.MonkeyPatch, number: int = errno.ENOLCK) -> None:
    def flock(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", flock)


def refused(folder: str, *, shared: bool) -> bool:
    try:
        with held(folder, "x", shared=shared, wait=False):
            return False
    except BlockingIOError:
        return True


def test_who_keeps_out_whom(folder: str) -> None:
    with held(folder, "x"):
        assert refused(folder, shared=False)
        assert refused(folder, shared=True)
        with held(folder, "y", wait=False):
            pass
    with held(folder, "x", shared=True), held(folder, "x", shared=True, wait=False) as lock:
        assert refused(folder, shared=False)
        lock.check()
    assert not refused(folder, shared=False)
    assert not refused(folder, shared=True)


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL])
def test_every_way_to_have_no_locks(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_locks(monkeypatch, number)
    with held(str(tmp_path), "x"):
        assert os.listdir(tmp_path / "leases") == ["x.1"]


def test_other_errors_are_no_reason_to_do_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_locks(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)), held(str(tmp_path), "x"):
        pass
    assert not (tmp_path / "leases").exists()


def test_once_there_are_leases_all_use_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        without_locks(patch)
        with held(str(tmp_path), "x"):
            patch.undo()  # another host, on which flock works
            assert refused(str(tmp_path), shared=True)
    assert not refused(str(tmp_path), shared=False)


def test_waiting_ends_when_the_lock_is_free(folder: str) -> None:
    order: list[str] = []

    def wait() -> None:
        with held(folder, "x", shared=True):
            order.append("second")

    with held(folder, "x"):
        thread = threading.Thread(target=wait)
        thread.start()
        time.sleep(0.1)
        order.append("first")
    thread.join(10)
    assert order == ["first", "second"]


COUNT = textwrap.dedent(
    """
    import sys
    from apppot.image.locks import held
    path = sys.argv[1]
    for number in range(int(sys.argv[2])):
        with held(path, "x"):
            with open(path + "/count") as file: value = int(file.read())
            with open(path + "/count", "w") as file: file.write(str(value + 1))
    """
)


def python(words: str, *arguments: str, **more: Any) -> subprocess.Popen[bytes]:
    """Start a Python program whose file systems have no locks."""
    env = {**os.environ, "PYTHONPATH": NOLOCKS}
    return subprocess.Popen([sys.executable, "-c", words, *arguments], env=env, **more)


def test_many_processes_take_turns(tmp_path: Path) -> None:
    (tmp_path / "count").write_text("0")
    workers = [python(COUNT, str(tmp_path), "25") for _ in range(5)]
    assert [worker.wait(120) for worker in workers] == [0] * 5
    assert (tmp_path / "count").read_text() == "125"
    assert len(os.listdir(tmp_path / "leases")) == 1


HOLD = textwrap.dedent(
    """
    import sys, time
    from apppot.image.locks import held
    with held(sys.argv[1], "x", shared=sys.argv[2] == "shared"):
        print("held", flush=True)
        time.sleep(100)
    """
)


@pytest.mark.parametrize("how", ["shared", "alone"])
def test_a_killed_holder_is_no_more_at_once(how: str, tmp_path: Path) -> None:
    with python(HOLD, str(tmp_path), how, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert refused(str(tmp_path), shared=False)
        holder.send_signal(signal.SIGSTOP)  # halted is not dead
        assert refused(str(tmp_path), shared=False)
        holder.kill()
        deadline = time.monotonic() + 10
        while refused(str(tmp_path), shared=False):  # a zombie is dead, too
            assert time.monotonic() < deadline
    assert locks.leftovers(str(tmp_path)) == []


def foreign(tmp_path: Path, name: str, age: float) -> Path:
    """Make the lock of a process of another host that was touched so long ago."""
    path = tmp_path / "leases" / name
    path.parent.mkdir(exist_ok=True)
    owner = locks._Owner("far", "other boot", "pid:[1]", os.getpid(), "1", "00")
    path.write_bytes(owner.data())
    os.utime(path, (time.time() - age,) * 2)
    return path


@pytest.mark.parametrize("name", ["x.7", "x-00"])
def test_a_holder_on_another_host_is_dead_when_it_is_silent(name: str, tmp_path: Path) -> None:
    path = foreign(tmp_path, name, locks.STALE - 30)
    assert refused(str(tmp_path), shared=False)
    path = foreign(tmp_path, name, locks.STALE + 30)
    assert not refused(str(tmp_path), shared=False)
    assert not path.exists()


@pytest.mark.parametrize("content", [b"", b"x", b"[]", b'{"pid": "x"}', b"\xff" * 99, b"[" * 4096])
def test_damaged_leases_are_waited_for_and_then_passed(content: bytes, tmp_path: Path) -> None:
    path = foreign(tmp_path, "x.1", 0)
    path.write_bytes(content)
    assert refused(str(tmp_path), shared=False)
    os.utime(path, (1, 1))
    assert not refused(str(tmp_path), shared=False)


def test_holders_touch_their_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_locks(monkeypatch)
    monkeypatch.setattr(locks, "BEAT", 0.02)
    with held(str(tmp_path), "x", shared=True):
        (path,) = (tmp_path / "leases").glob("x-*")
        os.utime(path, (1, 1))
        deadline = time.monotonic() + 10
        while path.stat().st_mtime == 1:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    without_locks(monkeypatch)

    def link(*_: Any) -> None:
        raise PermissionError(errno.EPERM, "no links here")

    monkeypatch.setattr("apppot.image.locks.os.link", link)
    test_who_keeps_out_whom(str(tmp_path))


def test_a_link_whose_answer_was_lost_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = os.link

    def link(source: str, target: str) -> None:
        real(source, target)
        raise FileExistsError(errno.EEXIST, "asked twice")

    monkeypatch.setattr("apppot.image.locks.os.link", link)
    without_locks(monkeypatch)
    test_who_keeps_out_whom(str(tmp_path))


def test_one_that_was_late_gives_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Someone judges that number 1 is free, sleeps, and makes number 2 when there is a 3."""
    leases = tmp_path / "leases"
    leases.mkdir()
    (leases / "x.1").write_bytes(locks.FREE)
    real = locks._create

    def late(path: str, data: bytes) -> bool:
        monkeypatch.setattr(locks, "_create", real)
        foreign(tmp_path, "x.3", 0)
        (leases / "x.1").unlink()
        return real(path, data)

    monkeypatch.setattr(locks, "_create", late)
    assert refused(str(tmp_path), shared=False)
    assert os.listdir(leases) == ["x.3"]


def test_a_folder_that_gives_entries_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leases = tmp_path / "leases"
    leases.mkdir()
    (leases / "x.1").write_bytes(locks.FREE)
    real = os.listdir
    with monkeypatch.context() as patch:
        patch.setattr("apppot.image.locks.os.listdir", lambda path: real(path) * 2)
        with held(str(tmp_path), "x") as lock:
            lock.check()
    assert real(leases) == ["x.2"]


def test_a_writer_that_lost_its_lock_changes_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(store, "a:1", b"a")
    before = Path(store.path, "index.json").read_bytes()
    without_locks(monkeypatch)
    real = Store.entries

    def entries(self: Store) -> Any:  # the process is halted here, and another takes over
        foreign(Path(store.path), "index.lock.99", 0)
        return real(self)

    monkeypatch.setattr(Store, "entries", entries)
    with pytest.raises(ImageError, match="halted"):
        add(store, "b:1", b"b")
    assert Path(store.path, "index.json").read_bytes() == before


@pytest.mark.parametrize(
    ("kind", "options", "local"),
    [
        ("ext4", "rw", False),
        ("nfs4", "rw,vers=4.2,local_lock=none,addr=1.2.3.4", False),
        ("nfs", "rw,vers=3,nolock,local_lock=all", True),
        ("nfs", "rw,local_lock=flock", True),
        ("lustre", "rw,localflock", True),
        ("lustre", "rw,flock", False),
        ("fuse.sshfs", "rw", True),
    ],
)
def test_locks_of_one_host_alone_are_none(
    kind: str, options: str, local: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = os.stat(tmp_path).st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    table = tmp_path / "mountinfo"
    table.write_text(
        f"21 1 0:1 / / rw - tmpfs none rw,nolock\n"
        f"22 1 {number} / /mnt rw,relatime shared:1 - {kind} host:/x {options}\n"
    )
    monkeypatch.setattr(locks, "MOUNTS", str(table))
    assert locks._local_only(str(tmp_path)) is local


def test_an_owner_is_written_and_read() -> None:
    me = locks._Owner.me()
    assert locks._Owner.read(me.data()) == me
    assert json.loads(me.data())["pid"] == os.getpid()
