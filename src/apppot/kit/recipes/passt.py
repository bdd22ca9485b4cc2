"""passt: the user-mode network, as one static binary for any x86_64 processor."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from apppot.kit.job import Job

NAME = "passt"
LINKED = ("libc.a", "libgcc.a")


def build(job: Job) -> None:
    """Build passt alone: no pasta, no manual pages, no variant for AVX2."""
    tree = job.unpack()
    job.step(
        "compile",
        [
            *("make", "passt", "CC=gcc", f"VERSION={job.version}"),
            "CPPFLAGS=-DGLIBC_NO_STATIC_NSS",
            "CFLAGS=" + " ".join(("-static", *job.reproducible)),
        ],
        cwd=tree,
    )
    job.install(f"{tree}/passt", "bin/passt")
    job.licences(tree, "LICENSES/GPL-2.0-or-later.txt", "LICENSES/BSD-3-Clause.txt")
