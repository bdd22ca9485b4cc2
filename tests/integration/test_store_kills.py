"""SIGKILL at any moment, with several at work on one store: it stays sound, nothing is lost."""

from __future__ import annotations

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
from tests.integration import store_worker
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


@pytest.mark.parametrize("leases", [False, True], ids=["locks", "no-locks"])
def test_kills_leave_a_sound_store(
    leases: bool, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    dice = random.Random(SEED)
    crowd = Crowd(place, leases=leases)
    if leases:
        monkeypatch.setattr("fcntl.flock", store_worker.no_lock)
    seen = 0
    try:
        for kill in range(1, KILLS + 1):
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
    assert seen > KILLS  # they have really made images
    assert os.path.isdir(os.path.join(crowd.store.path, locks.FOLDER)) is leases


def check_at_rest(crowd: Crowd) -> None:
    """Check all images, and that gc leaves nothing behind that no image needs."""
    for number in range(WORKERS):
        crowd.check_images(number)
    assert not cleaning.gc(crowd.store, days=0).busy
    report = fsck.check(crowd.store)
    assert report.damage == ()
    # A lease's file under a temporary name says nothing of its owner: it goes when it is old.
    assert [n for n in report.notes if f"/{locks.FOLDER}/" not in n.path] == []
