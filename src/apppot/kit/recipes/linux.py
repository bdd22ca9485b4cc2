"""What both kernels of the kit have in common: the source's archive, and the configuration."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

from apppot.errors import KitError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from apppot.kit.job import Job

# What "the same inputs" must not be told apart by.
FIXED = {
    "KBUILD_BUILD_TIMESTAMP": "2026-01-01 00:00:00 UTC",
    "KBUILD_BUILD_USER": "apppot",
    "KBUILD_BUILD_HOST": "apppot",
    "KBUILD_BUILD_VERSION": "1",
}
# C sources and headers there are not unpacked: neither kernel has anything of them. Their Kconfig
# files and Makefiles stay: those of all drivers are read, and some of the other architectures'.
UNUSED = (
    *("drivers/accel", "drivers/clk", "drivers/gpu/drm/*", "drivers/iio", "drivers/infiniband"),
    *("drivers/media", "drivers/net/wireless", "drivers/pinctrl", "drivers/staging"),
    *("tools/testing", "tools/perf"),
)
OTHER_ARCHITECTURES = (
    *("alpha", "arc", "arm", "arm64", "csky", "hexagon", "loongarch", "m68k", "microblaze"),
    *("mips", "nios2", "openrisc", "parisc", "powerpc", "riscv", "s390", "sh", "sparc", "xtensa"),
)
LICENCES = ("COPYING", "LICENSES/preferred/GPL-2.0", "LICENSES/exceptions/Linux-syscall-note")
_SETTING = re.compile(r"(?:(CONFIG_\w+)=(.*)|# (CONFIG_\w+) is not set)")


def unpack(job: Job, unused: Sequence[str] = ()) -> str:
    """Unpack the archive, which may lie in a Debian package, and return the patched tree."""
    archive = _archive(job) if job.source.endswith(".deb") else job.source
    tree = os.path.join(job.work, "source")
    os.mkdir(tree)
    folders = (*UNUSED, *unused, *(f"arch/{name}" for name in OTHER_ARCHITECTURES))
    endings = ("[chS]", "dts", "dtsi", "dtso")
    patterns = [f"*/{folder}/*.{ending}" for folder in folders for ending in endings]
    job.step(
        "unpack",
        [
            *("tar", "-xf", archive, "-C", tree, "--strip-components=1", "--no-same-owner"),
            *(f"--exclude={pattern}" for pattern in patterns),
        ],
    )
    if archive != job.source:
        os.unlink(archive)
    job.patch(tree)
    return tree


def _archive(job: Job) -> str:
    """Return the kernel's source archive from a linux-source package."""
    with job.progress.step(f"{job.name}: open the package"):
        job.run("open the package", ["ar", "x", job.source])
        data = next(name for name in os.listdir(job.work) if name.startswith("data.tar"))
        job.run("open the package", ["tar", "-xf", data, "--wildcards", "./usr/src/linux-source-*"])
        os.unlink(f"{job.work}/{data}")
    folder = f"{job.work}/usr/src"
    for name in os.listdir(folder):
        if ".tar." in name:
            return f"{folder}/{name}"
    raise KitError(f"{job.name}: there is no source archive in {os.path.basename(job.source)}")


def settings(text: str) -> dict[str, str]:
    """Return the symbols that a configuration gives a value; `n` for those that are not set."""
    found = {}
    for line in text.splitlines():
        match = _SETTING.match(line)
        if match:
            found[match[1] or match[3]] = match[2] if match[1] else "n"
    return found


def dropped(wanted: str, got: str) -> list[str]:
    """Return what a configuration asked for and did not get, as `SYMBOL=WANTED (GOT)`."""
    have = settings(got)
    return [
        f"{symbol}={value} (is {have.get(symbol, 'n')})"
        for symbol, value in settings(wanted).items()
        if have.get(symbol, "n") != value
    ]


def configure(job: Job, tree: str, architecture: str, *fragments: str) -> None:
    """Merge our fragments onto the smallest configuration; all of it must be there afterwards.

    Where two fragments differ, the last one is right.
    """
    paths = [f"{job.recipe}/{name}" for name in fragments]
    make = ("make", "-s", f"ARCH={architecture}")
    with job.progress.step(f"{job.name}: configure"):
        job.run("configure", [*make, "tinyconfig"], cwd=tree, env=FIXED)
        merge = ["scripts/kconfig/merge_config.sh", "-m", ".config", *paths]
        job.run("configure", merge, cwd=tree, env={**FIXED, "ARCH": architecture})
        job.run("configure", [*make, "olddefconfig"], cwd=tree, env=FIXED)
        with open(f"{tree}/.config", encoding="utf-8") as got:
            lost = dropped("".join(_text(path) for path in paths), got.read())
    if lost:
        raise KitError(
            f"{job.name}: the kernel's configuration dropped {', '.join(lost)}",
            hint=f"correct {paths[-1]} for Linux {job.version}",
        )


def _text(path: str) -> str:
    with open(path, encoding="utf-8") as stream:
        return stream.read()
