"""A run as a Slurm job: exit codes, memory, arrays; nothing is left on the nodes."""

from __future__ import annotations

import json
import os
import signal
from typing import TYPE_CHECKING

import pytest

from tests.integration.slurm.cluster import read
from tests.integration.slurm.conftest import IMAGE

if TYPE_CHECKING:
    from tests.integration.slurm.cluster import Cluster

RUN = f"#!/bin/bash\nexec apppot run --network none {IMAGE} -- "

USE_MEMORY = """\
free=$(sed -n 's/^MemAvailable: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo)
exec perl -e '$x = "x" x ($ARGV[0] * 1024); sleep 5; open F, ">used"; print F length $x' \
    $((free / 2 - 8192))
"""


@pytest.mark.parametrize("code", [0, 1, 7, 125, 255])
def test_exit_code_is_the_payloads(slurm: Cluster, job_folder: str, code: int) -> None:
    number, folder = slurm.submit(f"{RUN} sh -c 'echo out; exit {code}'", folder=job_folder)
    job = slurm.wait(number)
    assert job.exit_code == f"{code}:0", read(folder, "err")
    assert job.state == ("FAILED" if code else "COMPLETED")
    assert read(folder, "out") == "out\n"


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGKILL, signal.SIGTERM])
def test_death_by_a_signal_is_128_and_its_number(
    slurm: Cluster, job_folder: str, number: signal.Signals
) -> None:
    job, _ = slurm.submit(f"{RUN} sh -c 'kill -{int(number)} $$'", folder=job_folder)
    # The launcher itself ends by no signal, so Slurm notes a status. One above 128 is shown by
    # some of its versions as the signal that it stands for.
    ended = slurm.wait(job)
    assert ended.state == "FAILED"
    assert ended.exit_code in (f"{128 + number}:0", f"0:{int(number)}")


def test_failure_of_apppot_is_125_and_says_why(slurm: Cluster, job_folder: str) -> None:
    number, folder = slurm.submit("#!/bin/bash\nexec apppot run no:such -- true", folder=job_folder)
    assert slurm.wait(number).exit_code == "125:0"
    assert "no:such" in read(folder, "err")


def test_two_steps_of_srun_run_two_machines(slurm: Cluster, job_folder: str) -> None:
    script = (
        "#!/bin/bash\n"
        f"srun -n 2 apppot run --memory 256M --network none -e SLURM_PROCID {IMAGE} --"
        " sh -c 'echo $SLURM_PROCID > rank$SLURM_PROCID; exit $SLURM_PROCID'\n"
    )
    number, folder = slurm.submit(script, "-n", "2", folder=job_folder)
    assert slurm.wait(number).exit_code == "1:0"  # srun's: the highest of its tasks'
    assert (read(folder, "rank0"), read(folder, "rank1")) == ("0\n", "1\n")


def test_memory_auto_stays_within_the_allocation(slurm: Cluster, job_folder: str) -> None:
    # Slurm kills this job if it goes over its 700 MiB; the payload uses nearly all that it sees.
    with open(os.path.join(job_folder, "use.sh"), "w", encoding="ascii") as file:
        file.write(USE_MEMORY)
    script = (
        "#!/bin/bash\n"
        f"exec apppot run --memory auto --network none --report r.json {IMAGE} -- sh use.sh\n"
    )
    number, folder = slurm.submit(script, "--mem=700", folder=job_folder)
    job = slurm.wait(number)
    assert (job.state, job.exit_code) == ("COMPLETED", "0:0"), read(folder, "err")
    report = json.loads(read(folder, "r.json"))
    assert 500 << 20 < report["machine"]["memory"] < 700 << 20
    assert 2 * int(read(folder, "used")) > 500 << 20  # perl holds the text twice
    assert report["usage"]["host_peak_memory"] < 700 << 20


def test_the_limit_on_memory_is_real(slurm: Cluster, job_folder: str) -> None:
    # Without --memory auto the job of the test above is killed: the cluster does look.
    with open(os.path.join(job_folder, "use.sh"), "w", encoding="ascii") as file:
        file.write(USE_MEMORY)
    script = f"#!/bin/bash\nexec apppot run --memory 1G --network none {IMAGE} -- sh use.sh\n"
    number, folder = slurm.submit(script, "--mem=700", folder=job_folder)
    assert slurm.wait(number).state == "FAILED"
    assert "exceeded memory limit" in read(folder, "err")
    slurm.as_user(["apppot", "prune", "--quiet"])  # the launcher was killed, too


def test_too_small_an_allocation_is_told(slurm: Cluster, job_folder: str) -> None:
    script = f"#!/bin/bash\nexec apppot run --memory auto --network none {IMAGE} -- true\n"
    number, folder = slurm.submit(script, "--mem=60", folder=job_folder)
    assert slurm.wait(number).exit_code == "125:0"
    assert "SLURM_MEM_PER_NODE" in read(folder, "err")


def test_tasks_of_an_array_share_one_base(slurm: Cluster, job_folder: str) -> None:
    before = _blobs(slurm)
    script = (
        "#!/bin/bash\n"
        f"exec apppot run --root --memory 200M --network none -e SLURM_ARRAY_TASK_ID {IMAGE} --"
        " sh -c 'n=$SLURM_ARRAY_TASK_ID; test ! -e /usr/mine && echo $n > /usr/mine; sleep 1;"
        " echo $(($(cat /usr/mine) * n)) > result.$n'\n"
    )
    number, folder = slurm.submit(script, "-a", "1-20", "--mem=300", folder=job_folder)
    done = slurm.wait_array(number, patience=180)
    assert [(job.state, job.exit_code) for job in done] == [("COMPLETED", "0:0")] * 20
    results = {n: read(folder, f"result.{n}") for n in range(1, 21)}
    assert results == {n: f"{n * n}\n" for n in range(1, 21)}
    assert _blobs(slurm) == before


def _blobs(slurm: Cluster) -> dict[str, str]:
    """Return the digest of every file of the store."""
    import hashlib

    folder = os.path.join(slurm.folder, "store", "blobs", "sha256")
    found = {}
    for name in os.listdir(folder):
        with open(os.path.join(folder, name), "rb") as file:
            found[name] = hashlib.file_digest(file, "sha256").hexdigest()
    assert all(name == digest for name, digest in found.items())
    return found
