"""The kernel for virtual PCs: KVM, QEMU, Xen, VirtualBox and clouds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apppot.kit.recipes import linux

if TYPE_CHECKING:
    from apppot.kit.job import Job

NAME = "pc-kernel"
LINKED = ()
# `uml` is a link to the other kernel's configuration.
FRAGMENTS = ("uml", "config")
# Of the other kernel's: what is wrong on every architecture. Then its own.
PATCHES = ("kernel/patches/*-mm-khugepaged-*.patch", "pc-kernel/patches/*.patch")


def build(job: Job) -> None:
    """Build the kernel and put it into the kit as boot/bzImage."""
    tree = linux.unpack(job)
    linux.configure(job, tree, "x86_64", *FRAGMENTS)
    make = ("make", "-s", "ARCH=x86_64", f"-j{job.jobs}")
    job.step("compile", [*make, "bzImage"], cwd=tree, env=linux.FIXED)
    with open(f"{tree}/arch/x86/boot/bzImage", "rb") as image:
        job.write("boot/bzImage", image.read())
    job.licences(tree, *linux.LICENCES)
