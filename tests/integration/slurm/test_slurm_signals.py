"""Cancelling, signals and the time limit reach the payload; nothing is left on the nodes."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest

from tests.integration.slurm.cluster import read, until
from tests.integration.slurm.conftest import IMAGE

if TYPE_CHECKING:
    from tests.integration.slurm.cluster import Cluster

# The payload writes what it gets into its job folder; a TERM lets it end after a second of work.
PAYLOAD = """\
for name in USR1 USR2 INT HUP; do trap "echo $name >> got" $name; done
trap 'echo TERM >> got; sleep 1; echo saved > saved; exit 9' TERM
echo ready > ready
while :; do sleep 0.1; done
"""
EXEC = f"#!/bin/bash\nexec apppot run {{options}} {IMAGE} -- bash payload.sh\n"
# For scripts that have to go on after the run: bash acts on signals while it waits, and not while
# a command of its own runs.
WAIT = f"""\
#!/bin/bash
apppot run {{options}} {IMAGE} -- bash payload.sh &
run=$!
trap 'kill -TERM $run' TERM
trap 'kill -USR1 $run' USR1
while kill -0 $run 2>/dev/null; do wait $run; status=$?; done
echo "after $status" > after
exit $status
"""
STEP = f"#!/bin/bash\nexec srun apppot run {{options}} {IMAGE} -- bash payload.sh\n"
PLAIN = f"#!/bin/bash\napppot run {{options}} {IMAGE} -- bash payload.sh\n"


def _start(slurm: Cluster, folder: str, script: str, *options: str, network: str = "user") -> str:
    """Submit a job and wait until its payload is ready; return its number."""
    with open(f"{folder}/payload.sh", "w", encoding="ascii") as file:
        file.write(PAYLOAD)
    text = script.format(options=f"--memory 256M --network {network}")
    number, _ = slurm.submit(text, *options, folder=folder)
    ready = until(lambda: read(folder, "ready"), 60)
    assert ready, f"{slurm.job(number).fields} {read(folder, 'err')}\n{slurm.log()}"
    return number


@pytest.mark.parametrize("script", [EXEC, WAIT], ids=["exec", "wait"])
def test_scancel_lets_the_payload_save_its_work(
    slurm: Cluster, job_folder: str, script: str
) -> None:
    number = _start(slurm, job_folder, script)
    slurm.as_user(["scancel", number])
    assert slurm.wait(number).state == "CANCELLED"
    assert slurm.left() == []
    assert read(job_folder, "got") == "TERM\n"
    assert read(job_folder, "saved") == "saved\n"
    if script is WAIT:
        assert read(job_folder, "after") == "after 9\n"


def test_scancel_of_a_plain_script_leaves_nothing(slurm: Cluster, job_folder: str) -> None:
    # bash ends at once, and Slurm kills what it can find: why the documentation says `exec`.
    number = _start(slurm, job_folder, PLAIN)
    slurm.as_user(["scancel", number])
    assert slurm.wait(number).state == "CANCELLED"
    assert slurm.left() == []


def test_scancel_while_the_machine_boots_leaves_nothing(slurm: Cluster, job_folder: str) -> None:
    for pause in (0.0, 0.1, 0.2, 0.3, 0.4, 0.5):
        text = EXEC.format(options="--memory 256M").replace("payload.sh", "-c 'sleep 100'")
        number, _ = slurm.submit(text, folder=job_folder)
        assert until(lambda: slurm.job(number).state != "PENDING")  # noqa: B023  called at once
        time.sleep(pause)
        slurm.as_user(["scancel", number])
        slurm.wait(number)
        assert slurm.left() == []


@pytest.mark.parametrize("how", ["--batch", "--full"])
@pytest.mark.parametrize("name", ["USR1", "USR2", "INT", "HUP"])
def test_scancel_s_reaches_the_payload_once(
    slurm: Cluster, job_folder: str, how: str, name: str
) -> None:
    number = _start(slurm, job_folder, EXEC)
    slurm.as_user(["scancel", "-s", name, how, number])
    assert until(lambda: read(job_folder, "got"), 10)
    slurm.as_user(["scancel", "-s", "TERM", how, number])
    job = slurm.wait(number)
    assert (job.state, job.exit_code) == ("FAILED", "9:0")
    assert read(job_folder, "got") == f"{name}\nTERM\n"
    assert slurm.left() == []


def test_a_trap_passes_a_signal_on(slurm: Cluster, job_folder: str) -> None:
    number = _start(slurm, job_folder, WAIT)
    slurm.as_user(["scancel", "-s", "USR1", "--batch", number])
    assert until(lambda: read(job_folder, "got"), 10)
    # --full signals the script and the run, and the script's trap the run once more.
    slurm.as_user(["scancel", "-s", "TERM", "--full", number])
    assert slurm.wait(number).exit_code == "9:0"
    assert read(job_folder, "got") == "USR1\nTERM\n"
    assert read(job_folder, "after") == "after 9\n"


def test_signals_to_steps_reach_the_payload(slurm: Cluster, job_folder: str) -> None:
    number = _start(slurm, job_folder, STEP)
    slurm.as_user(["scancel", "-s", "USR1", number])
    assert until(lambda: read(job_folder, "got"), 10)
    slurm.as_user(["scancel", "-s", "TERM", number])
    assert slurm.wait(number).exit_code == "9:0"
    assert read(job_folder, "got") == "USR1\nTERM\n"


def test_suspend_and_resume(slurm: Cluster, job_folder: str) -> None:
    number = _start(slurm, job_folder, EXEC)
    slurm.as_root(["scontrol", "suspend", number])
    time.sleep(3)
    slurm.as_root(["scontrol", "resume", number])
    slurm.as_user(["scancel", "-s", "USR1", "--batch", number])
    assert until(lambda: read(job_folder, "got"), 20)
    slurm.as_user(["scancel", "-s", "TERM", "--batch", number])
    assert slurm.wait(number).exit_code == "9:0"


def test_requeue_runs_again(slurm: Cluster, job_folder: str) -> None:
    number = _start(slurm, job_folder, EXEC, "--open-mode=append")
    slurm.as_user(["scontrol", "requeue", number])
    assert until(lambda: read(job_folder, "saved"), 20)
    assert slurm.left() == []
    slurm.as_user(["scancel", number])
    slurm.wait(number)


@pytest.mark.slow
def test_time_limit(slurm: Cluster) -> None:
    # Slurm counts in minutes and looks every half minute, so these jobs run side by side.
    plain, warned, deaf = (slurm.new_folder() for _ in range(3))
    numbers = [
        _start(slurm, plain, EXEC, "--time=1"),
        _start(slurm, warned, EXEC, "--time=1", "--signal=B:USR1@30"),
    ]
    ignoring = "-c 'trap \"\" TERM; while :; do sleep 1; done'"
    text = EXEC.format(options="--memory 256M").replace("payload.sh", ignoring)
    numbers.append(slurm.submit(text, "--time=1", folder=deaf)[0])
    for number in numbers:
        assert slurm.wait(number, patience=200).state == "TIMEOUT"
    # Each payload was told, and could save its work ...
    assert (read(plain, "got"), read(plain, "saved")) == ("TERM\n", "saved\n")
    assert (read(warned, "got"), read(warned, "saved")) == ("USR1\nTERM\n", "saved\n")
    # ... and the run that went on had no time to clean up when Slurm killed it; the next one does.
    assert until(lambda: not slurm.processes(), 10), slurm.processes()
    assert len(os.listdir(slurm.runtime)) == 1
    slurm.as_user(["apppot", "prune"])
    assert slurm.left() == []
