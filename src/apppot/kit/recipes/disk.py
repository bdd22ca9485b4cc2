"""What exported disks boot with: two boot loaders, and who plays the host's part."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apppot.kit import cpio
from apppot.kit.recipes.confine import compile_own

if TYPE_CHECKING:
    from apppot.kit.job import Job

NAME = "disk"
LINKED = ("musl libc.a", "libgcc.a")


def build(job: Job) -> None:
    """Compile all three; the keeper goes into an archive that follows the agent's."""
    with open(compile_own(job, "keeper"), "rb") as stream:
        job.write("boot/keeper.cpio", keeper_archive(stream.read()))
    for name in ("bios.bin", "efi.bin"):
        with open(compile_own(job, name), "rb") as stream:
            job.write(f"boot/{name}", stream.read())


def keeper_archive(program: bytes) -> bytes:
    """Return the archive that adds the program to an initramfs."""
    return cpio.archive([cpio.regular("keeper", program, 0o755)])
