"""SIGKILL at any moment, with several at work on one store: it stays sound, nothing is lost."""

from __future__ import annotations

import errno
import fcntl
import os
import random
import shutil
import signal
import tempfile
import time
from typing import TYPE_CHECKING

import pytest

from apppot.errors import AppPotError
from apppot.image import cleaning, erofs, fsck, listing, locks
from apppot.image.store import Store, resolve
from tests.integration import lockless_mount, store_worker
from tests.integration.store_worker import GONE, UNKNOWN

if TYPE_CHECKING:
    from collections.abc import Iterator

KILLS = int(os.environ.get("APPPOT_TEST_KILLS", "100"))
SEED = 20120614
WORKERS = 3
ROUND = 25


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return a folder in memory if there is one: a killed process's writes are the same there."""
    try:
        erofs.mkfs_program()
    except AppPotError as error:
        pytest.skip(f"no program makes layers here: {error.message}")
    memory = "/dev/shm"
    folder = tempfile.mkdtemp(
        prefix="apppot-kills-", dir=memory if os.access(memory, os.W_OK) else None
    )
    monkeypatch.setenv("APPPOT_STORE", os.path.join(folder, "store"))
    yield folder
    shutil.rmtree(folder)


class Crowd:
    """The workers, and what they have written down."""

    def __init__(self, place: str, *, leases: bool) -> None:
        self.store = Store(os.path.join(place, "store"))
        self.logs = [os.path.join(place, f"log{number}") for number in range(WORKERS)]
        self.leases = leases
        self.workers: dict[int, int] = {}
        self.starts = 0

    def start(self, number: int) -> None:
        self.starts += 1
        log = self.logs[number]
        self.workers[number] = store_worker.start(
            self.store.path, number, log, seed=SEED + self.starts, leases=self.leases
        )

    def kill(self, number: int, *, alone: bool) -> None:
        """Kill a worker, and its mkfs.erofs unless it is to go `alone`."""
        pid = self.workers.pop(number)
        for log in self.logs:
            if os.path.exists(log + ".failed"):
                with open(log + ".failed", encoding="utf-8") as file:
                    pytest.fail(file.read())
        if alone:
            os.kill(pid, signal.SIGKILL)
        else:
            os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    def check_images(self, number: int) -> int:
        """Check all images that a dead worker had finished; return their number."""
        entries = {entry.reference: entry.manifest.digest for entry in self.store.entries()}
        count = 0
        for name, digest in store_worker.state(self.logs[number]).items():
            if digest == GONE:
                assert name not in entries
            elif digest != UNKNOWN:
                assert entries.get(name) == digest, f"{name} is lost"
            if name in entries:  # half an image is never visible, whatever was going on
                count += 1
                for layer in resolve(name).layers:
                    listing.verify_blob(layer.path, layer.digest)
        return count


def test_kills_on_a_store_with_locks(place: str) -> None:
    kill_many(Crowd(place, leases=False))
    assert not os.path.isdir(os.path.join(place, "store", locks.FOLDER))


def test_kills_on_a_store_without_locks(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcntl.flock", store_worker.no_lock)
    kill_many(Crowd(place, leases=True))
    assert os.path.isdir(os.path.join(place, "store", locks.FOLDER))


def test_kills_on_a_real_file_system_without_locks(
    place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lockless_mount.mounted(place) as mount:
        refusal = pytest.raises(OSError, match=os.strerror(errno.ENOLCK))
        with open(os.path.join(mount, "x"), "w", encoding="ascii") as file, refusal:
            fcntl.flock(file, fcntl.LOCK_EX)
        monkeypatch.setenv("APPPOT_STORE", os.path.join(mount, "store"))
        kill_many(Crowd(mount, leases=False), KILLS // 4)  # it is slow
        assert os.path.isdir(os.path.join(mount, "store", locks.FOLDER))


def kill_many(crowd: Crowd, kills: int = KILLS) -> None:
    """Kill one of several workers at a time, at random moments, and check the store each time."""
    dice = random.Random(SEED)
    seen = 0
    try:
        for kill in range(1, kills + 1):
            for number in range(WORKERS):
                if number not in crowd.workers:
                    crowd.start(number)
            time.sleep(dice.uniform(0.005, 0.15))
            victim = dice.randrange(WORKERS)
            crowd.kill(victim, alone=dice.random() < 0.5)  # the others go on
            seen += crowd.check_images(victim)
            assert fsck.check(crowd.store).damage == ()
            if kill % ROUND == 0:
                for number in list(crowd.workers):
                    crowd.kill(number, alone=False)
                check_at_rest(crowd)
    finally:
        for number in list(crowd.workers):
            crowd.kill(number, alone=False)
    assert seen > kills  # they have really made images


def check_at_rest(crowd: Crowd) -> None:
    """Check all images, and that gc leaves nothing behind that no image needs."""
    for number in range(WORKERS):
        crowd.check_images(number)
    assert not cleaning.gc(crowd.store, days=0).busy
    report = fsck.check(crowd.store)
    assert report.damage == ()
    # A lease's file under a temporary name says nothing of its owner: it goes when it is old.
    assert [n for n in report.notes if f"/{locks.FOLDER}/" not in n.path] == []
