"""The User-Mode Linux kernel: unpack what it needs, patch, configure, compile."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apppot.kit.recipes import linux

if TYPE_CHECKING:
    from apppot.kit.job import Job

NAME = "kernel"
LINKED = ("libc.a", "libgcc.a")
UNUSED = ("drivers/net/ethernet", "drivers/scsi", "drivers/video")


def build(job: Job) -> None:
    """Build the kernel and put it into the kit as bin/linux."""
    tree = linux.unpack(job, UNUSED)
    linux.configure(job, tree, "um", "config")
    make = ("make", "-s", "ARCH=um", f"-j{job.jobs}")
    job.step("compile", [*make, "linux"], cwd=tree, env=linux.FIXED)
    job.install(f"{tree}/linux", "bin/linux")
    job.licences(tree, *linux.LICENCES)
