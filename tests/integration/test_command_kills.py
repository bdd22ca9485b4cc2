"""SIGKILL at any moment of whole commands, several at once on one store and a real registry.

A run prints its seed; APPPOT_TEST_SEED=SEED repeats its moments and victims.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import pytest

from apppot import kit
from apppot.errors import AppPotError
from tests.contract.harness import until
from tests.integration import lockless_mount, registries
from tests.integration.kill_yard import Job, Yard
from tests.processes import become_subreaper, command_of, descendants

if TYPE_CHECKING:
    from collections.abc import Iterator

KILLS = int(os.environ.get("APPPOT_TEST_KILLS", "100"))
SEED = int(os.environ.get("APPPOT_TEST_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
KINDS = ("pull", "build", "run", "push", "oci", "docker", "changes", "gc")
AT_ONCE = 3
MISSING = [name for name in (registries.PROGRAM, "busybox") if not shutil.which(name)]
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {' '.join(MISSING)}"),
    pytest.mark.timeout(900),
    pytest.mark.slow,
]


@pytest.fixture
def folder() -> Iterator[str]:
    """Return a folder in memory if there is one: a killed process's writes are the same there."""
    try:
        kit.find()
    except AppPotError as error:
        pytest.skip(f"there is no kit: {error.message}")
    memory = "/dev/shm"
    place = os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > 4 << 30
    path = tempfile.mkdtemp(prefix="apppot-kills-", dir=memory if place else None)
    become_subreaper()
    yield path
    become_subreaper(on=False)
    shutil.rmtree(path)


@contextmanager
def yard(folder: str, store: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Yard]:
    with registries.serving(os.path.join(folder, "registry")) as address:
        monkeypatch.setenv("APPPOT_STORE", store)
        made = Yard(folder, address, store)
        made.fill()
        yield made


def test_commands_killed(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with yard(folder, os.path.join(folder, "store"), monkeypatch) as place:
        kill_many(place, KILLS)


def test_commands_killed_where_there_are_no_locks(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lockless_mount.mounted(folder) as mount:
        with yard(folder, os.path.join(mount, "store"), monkeypatch) as place:
            kill_many(place, max(KILLS // 5, 1))
        assert os.path.isdir(os.path.join(mount, "store", "leases"))


def kill_many(place: Yard, kills: int) -> None:
    """Kill so many commands, each at a moment of the time that its kind takes."""
    print(f"APPPOT_TEST_SEED={SEED}")
    dice = random.Random(SEED)
    others = descendants()
    times = measured(place)
    print("seconds:", {kind: round(taken, 2) for kind, taken in times.items()})
    done = 0
    while done < kills:
        jobs = [place.job(kind) for kind in dice.sample(KINDS, AT_ONCE)]
        moments = {id(job): dice.uniform(0, times[job.kind]) for job in jobs}
        whole_sessions = dice.random() < 0.25  # as a batch system kills; else the command alone
        killed = start_and_kill(place, jobs, moments, whole_sessions=whole_sessions)
        done += len(killed)
        print(done, *(f"{job}{' killed' * (job in killed)}" for job in jobs), sep=", ", flush=True)
        until(lambda: not descendants(others), patience=15)
        assert [command_of(pid) for pid in descendants(others)] == []
        check_round(place, jobs, killed, dice)


def measured(place: Yard) -> dict[str, float]:
    """Return how long each kind takes when as many as later run at once."""
    times: dict[str, list[float]] = {kind: [] for kind in KINDS}
    order = [*KINDS, *reversed(KINDS), *KINDS[: -2 * len(KINDS) % AT_ONCE]]
    for begin in range(0, len(order), AT_ONCE):
        jobs = [place.job(kind) for kind in order[begin : begin + AT_ONCE]]
        for job in jobs:
            place.start(job)
        waiting = list(jobs)
        while waiting:
            for job in list(waiting):
                assert job.process
                if job.process.poll() is not None:
                    times[job.kind].append(time.monotonic() - job.began)
                    place.wait(job)
                    assert place.made(job) or job.kind == "gc"
                    waiting.remove(job)
            time.sleep(0.005)
    return {kind: statistics.mean(found) for kind, found in times.items()}


def start_and_kill(
    place: Yard, jobs: list[Job], moments: dict[int, float], *, whole_sessions: bool
) -> list[Job]:
    """Run commands at once, and kill each at its moment; return those that were not over."""
    for job in jobs:
        place.start(job)
    killed = []
    for job in sorted(jobs, key=lambda each: each.began + moments[id(each)]):
        assert job.process
        left = job.began + moments[id(job)] - time.monotonic()
        with suppress(subprocess.TimeoutExpired):
            job.process.wait(max(left, 0))
        if job.process.poll() is None:
            kill = os.killpg if whole_sessions else os.kill
            kill(job.process.pid, signal.SIGKILL)
            job.process.wait()
            killed.append(job)
    return killed


def check_round(place: Yard, jobs: list[Job], killed: list[Job], dice: random.Random) -> None:
    """Check what is there, do again what was killed, and see that nothing is left."""
    again = []
    for job in jobs:
        made = place.made(job)
        if job not in killed:
            place.wait(job)
            assert made or job.kind == "gc", job
        elif not made:
            again.append(job)
    place.check_store()
    for job in again:
        place.start(job)
    for job in again:
        place.wait(job)
        assert place.made(job) or job.kind == "gc", job
    images = [job.image for job in jobs if job.image]
    place.check_runs({*images, dice.choice(sorted(place.finished))})
    place.call("prune")
    assert place.left() == []
