"""Small root file systems, and disks of them, made from the image under test without privilege."""

from __future__ import annotations

import os
import shutil
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.contract.harness import AppPot

MIB = 1 << 20
PROGRAMS = (
    *("dash", "sh", "bash", "cat", "ls", "cp", "mv", "rm", "mkdir", "ln", "chmod", "id"),
    *("env", "echo"),
    *("true", "sleep", "touch", "stat", "head", "tail", "sync", "gzip", "tar", "grep", "sed"),
    *("test", "dd", "tty", "sha256sum", "rmdir", "readlink", "kill", "wc", "find"),
)
LIBRARIES = ("libc.so.6", "libm.so.6", "ld-linux*", "libselinux*", "libpcre2-8*", "libtinfo*")
MORE_LIBRARIES = ("libacl.so*", "libattr.so*", "libgcc_s*", "libcrypto.so*")
# Patterns of a shell, expanded in the image.
_WANTED = (
    *("bin", "sbin", "lib", "lib64", "usr/lib64", "etc/passwd", "etc/group", "etc/nsswitch.conf"),
    *(f"usr/bin/{name}" for name in PROGRAMS),
    *(f"usr/lib/*-linux-gnu/{name}" for name in (*LIBRARIES, *MORE_LIBRARIES)),
)


def make_root(apppot: AppPot, folder: str) -> str:
    """Fill a folder with the programs of a small system, and return it."""
    archive = os.path.join(apppot.folder, "root.tar")
    script = f"ls -d {' '.join(_WANTED)} 2>/dev/null | tar -cf - -C / -T -"
    with open(archive, "wb") as file:
        words = ("sh", "-c", f"cd / && {script}")
        done = apppot.call(apppot.line(words, ("--network", "none", "--root")), stdout=file)
    assert done.status == 0, done.complaint
    os.makedirs(folder, exist_ok=True)
    subprocess.run(["tar", "-xf", archive, "-C", folder, "--no-same-owner"], check=True)
    os.unlink(archive)
    for name in ("tmp", "home", "root", "proc", "dev"):
        os.makedirs(os.path.join(folder, name), exist_ok=True)
    return folder


def mke2fs(folder: str, path: str, kind: str = "ext4", size: int = 48 * MIB) -> str:
    """Make a file system of a folder and return its path; with the kit's own program."""
    from apppot import kit

    with open(path, "wb") as file:
        file.truncate(size)
    options = ("-q", "-F", "-t", kind, "-d", folder, "-E", "root_owner=0:0")
    subprocess.run([kit.find().file(kit.MKE2FS), *options, path], check=True)
    return path


@dataclass(frozen=True)
class Part:
    """A partition for sfdisk: its size in MiB (0: the rest), type, and a file that it holds."""

    size: int
    kind: str
    file: str = ""


def partitioned(path: str, label: str, parts: Sequence[Part], size: int = 96 * MIB) -> str:
    """Make a disk with a partition table of sfdisk's and return its path."""
    program = shutil.which("sfdisk", path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    assert program
    with open(path, "wb") as file:
        file.truncate(size)
    lines = "".join(f",{f'{p.size}M' if p.size else ''},{p.kind}\n" for p in parts)
    subprocess.run([program, "-q", path], input=f"label: {label}\n{lines}".encode(), check=True)
    listing = subprocess.run(
        [program, "-l", "-o", "start", path], check=True, capture_output=True, text=True
    )
    starts = [int(line) for line in listing.stdout.split() if line.isdecimal()]
    with open(path, "r+b") as disk:
        for part, start in zip(parts, starts[-len(parts) :], strict=True):
            if part.file:
                disk.seek(start * 512)
                with open(part.file, "rb") as file:
                    shutil.copyfileobj(file, disk)
    return path


def has_sfdisk() -> bool:
    return bool(shutil.which("sfdisk", path=os.environ["PATH"] + ":/usr/sbin:/sbin"))
