"""Contract: `--memory auto` is what the job was given, less what AppPot needs on the host."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from apppot.machine.limits import MIB, auto_memory, memory_limit
from tests.contract.harness import report_of

if TYPE_CHECKING:
    from tests.contract.harness import AppPot, Ended

AUTO = ("--network", "none", "--memory", "auto", "--report", "report.json")
# What the guest has, and a file in its memory that takes most of it.
SCRIPT = (
    "sed -n 's/^MemTotal: *\\([0-9]*\\) kB/\\1/p' /proc/meminfo;"
    " dd if=/dev/zero of=/var/tmp/most bs=1M count=100 status=none && wc -c </var/tmp/most"
)


def _assert_given(apppot: AppPot, done: Ended, room: int) -> None:
    """Fail unless the machine has `room` less 40 MiB and a twentieth, and a usable part of that."""
    assert done.status == 0, done.complaint
    total, written = (int(line) for line in done.text.splitlines())
    memory = report_of(apppot.path("report.json"))["machine"]["memory"]
    assert memory == (room - 40 * MIB - room // 20) // MIB * MIB
    assert 0.85 * memory < total * 1024 < memory
    assert written == 100 * MIB


@pytest.fixture(autouse=True)
def _enough() -> None:
    limit = memory_limit(environ={})
    if auto_memory(limit) < 400 * MIB:
        pytest.skip(f"{limit.source} leaves too little memory for a limit below it")


def test_a_batch_job_s_memory(apppot: AppPot) -> None:
    job = apppot.having(SLURM_JOB_ID="1", SLURM_MEM_PER_NODE="300")
    _assert_given(apppot, job.call(job.line(("sh", "-c", SCRIPT), AUTO)), 300 * MIB)


@pytest.mark.only_on("uml", reason="QEMU reserves a GiB of address space for itself")
def test_the_tightest_limit_counts_and_holds(apppot: AppPot) -> None:
    job = apppot.having(SLURM_JOB_ID="1", SLURM_MEM_PER_NODE="100000")
    limited = ["prlimit", f"--as={400 * MIB}", *job.line(("sh", "-c", SCRIPT), AUTO)]
    _assert_given(apppot, job.call(limited), 400 * MIB)


def test_a_job_with_too_little_is_told_who_says_so(apppot: AppPot) -> None:
    job = apppot.having(SLURM_JOB_ID="1", SLURM_MEM_PER_NODE="80")
    done = job.call(job.line(("true",), AUTO))
    assert done.status == 125
    assert "SLURM_MEM_PER_NODE leaves 80M" in done.complaint
    assert "hint: " in done.complaint
