"""mke2fs: formats the sparse disks that hold a run's scratch."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from apppot.kit.job import Job

NAME = "e2fsprogs"
LINKED = ("libc.a", "libgcc.a")
OPTIONS = (
    *("--quiet", "--disable-nls", "--disable-debugfs", "--disable-imager", "--disable-resizer"),
    *("--disable-defrag", "--disable-uuidd", "--disable-fuse2fs", "--disable-bmap-stats"),
    *("--disable-e2initrd-helper", "--disable-tdb", "--disable-testio-debug", "--disable-fsck"),
    *("--enable-libuuid", "--enable-libblkid", "--without-libarchive", "--without-pthread"),
    *("--with-udev-rules-dir=no", "--with-crond-dir=no", "--with-systemd-unit-dir=no"),
)


def build(job: Job) -> None:
    """Build mke2fs with its private copies of libuuid and libblkid."""
    tree = job.unpack("--exclude=*/tests", "--exclude=*/po", "--exclude=*/doc")
    flags = "CFLAGS=" + " ".join(("-O2", "-w", *job.reproducible))
    job.step("configure", ["./configure", "CC=gcc", flags, "LDFLAGS=-static", *OPTIONS], cwd=tree)
    make = ("make", "-s", f"-j{job.jobs}")
    with job.progress.step(f"{job.name}: compile"):
        job.run("compile (libraries)", [*make, "libs"], cwd=tree)
        job.run("compile (mke2fs)", [*make, "-C", "misc", "mke2fs"], cwd=tree)
    job.install(f"{tree}/misc/mke2fs", "bin/mke2fs")
    job.licences(tree, "NOTICE")
