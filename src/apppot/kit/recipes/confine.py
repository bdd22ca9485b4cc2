"""The host's helper that takes rights away from a machine's processes before they start."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from apppot.kit.job import Job

NAME = "confine"
SOURCES = frozenset({"confine.c"})
# Kernel headers come after musl's own: both have, for example, <sys/types.h>.
KERNEL_HEADERS = ("/usr/include", "/usr/include/x86_64-linux-gnu")
FLAGS = ("-std=gnu11", "-Os", "-Wall", "-Wextra", "-fno-asynchronous-unwind-tables")


def compile_static(job: Job, sources: Sequence[str], program: str) -> None:
    """Compile `sources` into a static program against musl."""
    headers = [word for folder in KERNEL_HEADERS for word in ("-idirafter", folder)]
    job.step(
        "compile",
        [
            *("musl-gcc", "-static", *FLAGS, *job.reproducible, f"-ffile-prefix-map={job.guest}=."),
            *(f"-I{job.guest}", *headers, *sources, "-o", program),
        ],
    )


def build(job: Job) -> None:
    """Compile the helper against musl: it starts in well under a millisecond."""
    program = f"{job.work}/confine"
    compile_static(job, [f"{job.guest}/{name}" for name in sorted(SOURCES)], program)
    job.install(program, "bin/confine")
