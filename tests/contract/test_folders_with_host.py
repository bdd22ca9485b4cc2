"""Contract: what a machine, the host and other machines do in one shared folder fits together."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import subprocess
import time
from contextlib import AbstractContextManager, ExitStack
from typing import TYPE_CHECKING

import pytest

from tests.contract import fsops

if TYPE_CHECKING:
    from tests.contract.harness import AppPot, Running

RDWR = os.O_RDWR | os.O_CREAT
SHARED, EXCLUSIVE, UNLOCK = 1, 2, 8
READ_LOCK, WRITE_LOCK, NO_LOCK = 0, 1, 2
AGAIN = f"error {errno.EAGAIN}"


@pytest.fixture(scope="session", name="program")
def _program(tmp_path_factory: pytest.TempPathFactory) -> str:
    return fsops.build(str(tmp_path_factory.mktemp("fsops")))


def _machine(apppot: AppPot, program: str) -> AbstractContextManager[Running]:
    shutil.copy(program, apppot.path("fsops"))
    return apppot.start(("/job/fsops",), stdin=subprocess.PIPE)


@pytest.mark.only_on("uml", reason="QEMU's 9p server grants every lock: others do not see it")
def test_flock_excludes_the_host_and_is_excluded_by_it(apppot: AppPot, program: str) -> None:
    with _machine(apppot, program) as machine:
        fsops.ask(machine, "open", 0, "file", RDWR, 0o644)
        assert fsops.ask(machine, "flock", 0, EXCLUSIVE) == "0"
        with open(apppot.path("file"), "r+b") as file:
            with pytest.raises(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            assert fsops.ask(machine, "flock", 0, SHARED) == "0"
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            assert fsops.ask(machine, "flock", 0, EXCLUSIVE) == AGAIN
            assert fsops.ask(machine, "flock", 0, UNLOCK) == "0"
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            assert fsops.ask(machine, "flock", 0, SHARED) == AGAIN
        assert fsops.ask(machine, "flock", 0, SHARED) == "0"
        assert fsops.ask(machine, "close", 0) == "0"
        with open(apppot.path("file"), "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fsops.finish(machine)


@pytest.mark.only_on("uml", reason="QEMU's 9p server grants every lock: others do not see it")
def test_posix_locks_exclude_the_host_and_are_excluded_by_it(apppot: AppPot, program: str) -> None:
    with _machine(apppot, program) as machine:
        fsops.ask(machine, "open", 0, "file", RDWR, 0o644)
        assert fsops.ask(machine, "lock", 0, WRITE_LOCK, 0, 100) == "0"
        with open(apppot.path("file"), "r+b") as file:
            with pytest.raises(OSError, match="unavailable"):
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 90)
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 100)
            assert fsops.ask(machine, "lock", 0, WRITE_LOCK, 50, 100) == AGAIN
            assert fsops.ask(machine, "getlock", 0, READ_LOCK, 50, 100) == f"lock {WRITE_LOCK}"
            # What was locked before the attempt still is; what is let go is free.
            with pytest.raises(OSError, match="unavailable"):
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 10, 90)
            assert fsops.ask(machine, "lock", 0, NO_LOCK, 40, 100) == "0"
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 60, 40)
            with pytest.raises(OSError, match="unavailable"):
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 39)
            assert fsops.ask(machine, "close", 0) == "0"
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fsops.finish(machine)


@pytest.mark.only_on("uml", reason="QEMU's 9p server grants every lock: others do not see it")
def test_two_machines_lock_and_append(apppot: AppPot, program: str) -> None:
    with ExitStack() as stack:
        one, two = (stack.enter_context(_machine(apppot, program)) for _ in range(2))
        for machine in (one, two):
            fsops.ask(machine, "open", 0, "log", RDWR | os.O_APPEND, 0o644)
        assert fsops.ask(one, "flock", 0, EXCLUSIVE) == "0"
        assert fsops.ask(two, "flock", 0, EXCLUSIVE) == AGAIN
        assert fsops.ask(one, "flock", 0, UNLOCK) == "0"
        assert fsops.ask(two, "flock", 0, EXCLUSIVE) == "0"
        assert fsops.ask(one, "lock", 0, READ_LOCK, 0, 10) == "0"
        assert fsops.ask(two, "lock", 0, READ_LOCK, 0, 10) == "0"
        assert fsops.ask(two, "lock", 0, WRITE_LOCK, 0, 10) == AGAIN
        for round_ in range(1, 51):
            assert fsops.ask(one, "write", 0, 5000, 1) == "5000"
            assert fsops.ask(two, "write", 0, 11, 2) == "11"
            assert os.stat(apppot.path("log")).st_size == 5011 * round_
        for machine in (one, two):
            fsops.finish(machine)


@pytest.mark.only_on("uml", reason="QEMU's 9p server grants every lock: others do not see it")
def test_a_waiting_lock_comes_when_the_host_lets_go(apppot: AppPot) -> None:
    with open(apppot.path("file"), "wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        script = "exec 9<file; echo up; flock 9; echo locked"
        with apppot.start(("sh", "-c", script)) as running:
            running.expect(b"up\n")
            time.sleep(0.3)
            assert running.seen == b""
            fcntl.flock(file, fcntl.LOCK_UN)
            running.expect(b"locked\n", timeout=5)
            assert running.wait().status == 0


@pytest.mark.only_on("uml", reason="9p keeps mapped pages as long as the file is open")
def test_a_mapped_file_shows_what_the_host_has_written(apppot: AppPot, program: str) -> None:
    path = apppot.path("file")
    with _machine(apppot, program) as machine:
        answers = set()
        for content in (b"a" * 20_000, b"b" * 20_000, b"c" * 50_000, b"d" * 4096):
            with open(path, "wb") as file:
                file.write(content)
            fsops.ask(machine, "open", 0, "file", os.O_RDONLY, 0)
            answer = fsops.ask(machine, "mapread", 0, 0, 100_000)
            assert answer == fsops.ask(machine, "pread", 0, 0, 100_000)
            assert answer.split()[0] == str(len(content))
            answers.add(answer)
        assert len(answers) == 4
        # Without opening it again, too: asking for the file's state is enough.
        with open(path, "r+b") as file:
            file.write(b"e" * 4096)
        fsops.ask(machine, "fstat", 0)
        assert fsops.ask(machine, "mapread", 0, 0, 4096) not in answers
        fsops.finish(machine)


def test_a_mapping_writes_the_pages_that_it_changes_and_no_others(
    apppot: AppPot, program: str
) -> None:
    page, count = 4096, 256
    path = apppot.path("file")
    with open(path, "wb") as file:
        file.write(b"a" * page * count)
    with _machine(apppot, program) as machine:
        fsops.ask(machine, "open", 0, "file", os.O_RDWR, 0)
        fsops.ask(machine, "hold", 0, page * count)
        with open(path, "r+b") as file:
            for number in range(1, count, 2):
                os.pwrite(file.fileno(), b"host", number * page)
        for number in range(0, count, 2):
            fsops.ask(machine, "poke", number * page, ord("g"))
        assert fsops.ask(machine, "release", page * count) == "0"
        fsops.finish(machine)
    with open(path, "rb") as file:
        for number in range(0, count, 2):
            assert file.read(2 * page) == b"g".ljust(page, b"a") + b"host".ljust(page, b"a"), number


@pytest.mark.only_on("uml", reason="QEMU's 9p server follows names, not folders that were renamed")
def test_links_lead_nowhere_on_the_host(apppot: AppPot, program: str) -> None:
    """A link that the host puts in place of a folder is followed in the guest, if at all."""
    outside = os.path.join(apppot.folder, "outside")
    for folder in (outside, apppot.path("folder")):
        os.mkdir(folder)
        with open(os.path.join(folder, "file"), "w", encoding="ascii") as file:
            file.write("inside" if folder != outside else "outside!")
    with _machine(apppot, program) as machine:
        assert fsops.ask(machine, "enter", "folder") == "0"
        assert " size 6 " in fsops.ask(machine, "stat", "file")
        os.rename(apppot.path("folder"), apppot.path("elsewhere"))
        os.symlink(outside, apppot.path("folder"))
        # The current folder is the one that it was; the name is a link that ends in the guest.
        assert " size 6 " in fsops.ask(machine, "stat", "file")
        assert fsops.ask(machine, "enter", "/job") == "0"
        assert fsops.ask(machine, "stat", "folder/file") == f"error {errno.ENOENT}"
        assert fsops.ask(machine, "open", 0, "folder/new", RDWR, 0o644) == f"error {errno.ENOENT}"
        assert fsops.ask(machine, "chmod", "folder", 0o777) == f"error {errno.ENOENT}"
        assert " size 6 " in fsops.ask(machine, "stat", "elsewhere/file")
        fsops.finish(machine)
    assert os.listdir(outside) == ["file"]
    assert os.stat(outside).st_mode & 0o777 == 0o755


@pytest.mark.only_on("uml", reason="9p has no word for holes (SEEK_HOLE)")
def test_holes_stay_holes(apppot: AppPot, program: str) -> None:
    with _machine(apppot, program) as machine:
        fsops.ask(machine, "open", 0, "sparse", RDWR, 0o644)
        assert fsops.ask(machine, "pwrite", 0, 1 << 30, 4096, 1) == "4096"
        assert fsops.ask(machine, "lseek", 0, 0, 3) == str(1 << 30)
        assert fsops.ask(machine, "mapread", 0, (1 << 30) - 4096, 4096).startswith("4096 ")
        fsops.finish(machine)
    found = os.stat(apppot.path("sparse"))
    assert found.st_size == (1 << 30) + 4096
    assert found.st_blocks * 512 < 1 << 20


def test_many_folders_do_not_use_up_descriptors(apppot: AppPot) -> None:
    """More folders than the host lets a process have open files."""
    script = "for i in $(seq 300); do mkdir -p d$i/e; echo $i >d$i/e/f; done; cat d*/e/f | wc -l"
    words = ("sh", "-c", 'ulimit -n 128; exec "$@"', "sh")
    line = apppot.line(("sh", "-c", script), options=("--network", "none"))
    done = apppot.call([*words, *line])
    assert (done.status, done.text) == (0, "300\n"), done.complaint
