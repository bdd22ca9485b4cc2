"""The host's helper that takes rights away from a machine's processes before they start."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from apppot.kit.job import Job

NAME = "confine"
LINKED = ("musl libc.a", "libgcc.a")


def compile_own(job: Job, name: str) -> str:
    """Compile one of the project's own programs as its Makefile says, and return its path."""
    target = f"{job.work}/{name}"
    job.step(
        "compile",
        [
            *("make", "-s", "-C", job.guest, f"-j{job.jobs}"),
            *(f"OUT={job.work}", "CC=musl-gcc", f"VERSION={job.version}", target),
        ],
    )
    return target


def build(job: Job) -> None:
    """Compile the helper against musl: it starts in well under a millisecond."""
    job.install(compile_own(job, NAME), "bin/confine")
