"""The guest's first process, alone in the initramfs that boots every appliance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apppot.kit import cpio
from apppot.kit.recipes.confine import compile_own

if TYPE_CHECKING:
    from apppot.kit.job import Job

NAME = "agent"
LINKED = ("musl libc.a", "libgcc.a")


def build(job: Job) -> None:
    """Compile the agent against musl and put it into an initramfs."""
    with open(compile_own(job, NAME), "rb") as stream:
        job.write("boot/agent.cpio", initramfs(stream.read()))


def initramfs(init: bytes) -> bytes:
    """Return the archive: /init, and the console that the kernel opens for it."""
    return cpio.archive(
        [
            cpio.directory("dev"),
            cpio.character_device("dev/console", 5, 1),
            cpio.regular("init", init, 0o755),
        ]
    )
