"""The guest's first process, alone in the initramfs that boots every appliance."""

from __future__ import annotations

import glob
import os
from typing import TYPE_CHECKING

from apppot.kit import cpio
from apppot.kit.recipes import confine

if TYPE_CHECKING:
    from apppot.kit.job import Job

NAME = "agent"


def sources(guest: str) -> list[str]:
    """Return the agent's own files among those of `guest`."""
    paths = sorted(glob.glob(f"{guest}/*.c"))
    return [path for path in paths if os.path.basename(path) not in confine.SOURCES]


def build(job: Job) -> None:
    """Compile the agent against musl and put it into an initramfs."""
    program = f"{job.work}/agent"
    confine.compile_static(job, sources(job.guest), program)
    stripped = f"{job.work}/init"
    job.run("strip", ["strip", "--strip-all", "-R", ".comment", "-o", stripped, program])
    with open(stripped, "rb") as stream:
        init = stream.read()
    job.write("boot/agent.cpio", initramfs(init))


def initramfs(init: bytes) -> bytes:
    """Return the archive: /init, and the console that the kernel opens for it."""
    return cpio.archive(
        [
            cpio.directory("dev"),
            cpio.character_device("dev/console", 5, 1),
            cpio.regular("init", init, 0o755),
        ]
    )
