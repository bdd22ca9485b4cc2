"""The programs and libraries that a build needs: what is missing, and what versions are there."""

from __future__ import annotations

import os
import re
import shutil
from dataclasses import dataclass

from apppot import process
from apppot.errors import KitError

# program -> the Debian package that has it
PROGRAMS = {
    "gcc": "gcc",
    "ld": "binutils",
    "strip": "binutils",
    "ar": "binutils",
    "make": "make",
    "patch": "patch",
    "tar": "tar",
    "xz": "xz-utils",
    "gzip": "gzip",
    "awk": "mawk",
    "flex": "flex",
    "bison": "bison",
    "bc": "bc",
    "perl": "perl-base",
    "lz4": "lz4",
    "musl-gcc": "musl-tools",
}
# header -> the Debian package that has it; compiled against, so that any compiler's paths count
HEADERS = {
    "stdio.h": "libc6-dev",
    "linux/fs.h": "linux-libc-dev",
    "zlib.h": "zlib1g-dev",
    "lz4.h": "liblz4-dev",
    "zstd.h": "libzstd-dev",
    "lzma.h": "liblzma-dev",
    "gelf.h": "libelf-dev",
}
LIBRARIES = {
    "libc.a": "libc6-dev",
    "libz.a": "zlib1g-dev",
    "liblz4.a": "liblz4-dev",
    "libzstd.a": "libzstd-dev",
    "liblzma.a": "liblzma-dev",
}


@dataclass(frozen=True)
class Missing:
    """Something that a build needs and that is not installed."""

    what: str
    package: str


def missing_programs() -> list[Missing]:
    """Return the programs that are not on PATH."""
    return [
        Missing(name, package) for name, package in PROGRAMS.items() if shutil.which(name) is None
    ]


def missing_libraries() -> list[Missing]:
    """Return the headers and static libraries that gcc does not find."""
    lacking = []
    for header, package in HEADERS.items():
        source = f"#include <stddef.h>\n#include <{header}>\n".encode()
        done = process.run(["gcc", "-E", "-xc", "-", "-o", os.devnull], stdin=source, check=False)
        if done.returncode:
            lacking.append(Missing(header, package))
    for name, package in LIBRARIES.items():
        if not os.path.isabs(library(name)):
            lacking.append(Missing(name, package))
    return lacking


def require() -> None:
    """Raise one KitError that lists everything that is missing, with the packages that have it."""
    lacking = missing_programs()
    if not any(each.what == "gcc" for each in lacking):
        lacking += missing_libraries()
    if lacking:
        raise missing_error(lacking)


def missing_error(lacking: list[Missing]) -> KitError:
    """Return the error for what is missing."""
    names = ", ".join(each.what for each in lacking)
    packages = " ".join(sorted({each.package for each in lacking}))
    return KitError(
        f"building the kit needs what is not installed here: {names}",
        hint=f"on Debian and its kin: apt-get install {packages}",
    )


def library(name: str) -> str:
    """Return the path of a static library; `musl libc.a` is musl's. Its name alone if unknown."""
    if name.startswith("musl "):
        return os.path.join(_musl_folder(), name.removeprefix("musl "))
    return _file_name("gcc", name)


def _file_name(compiler: str, library: str) -> str:
    done = process.run([compiler, f"-print-file-name={library}"], check=False)
    path = done.stdout.decode().strip()
    return os.path.realpath(path) if os.path.isabs(path) and os.path.isfile(path) else library


def _first_line(*argv: str) -> str:
    done = process.run(argv, check=False)
    return (done.stdout or done.stderr).decode("utf-8", "replace").partition("\n")[0].strip()


def _musl_folder() -> str:
    """Return the folder of musl's libraries: that of the specs which musl-gcc, a script, names."""
    with open(process.find_program("musl-gcc"), encoding="utf-8", errors="replace") as stream:
        found = re.search(r'-specs[ =]"?([^" \n]+)', stream.read())
    return os.path.dirname(found[1]) if found else "/usr/lib/x86_64-linux-musl"


def _musl_version() -> str:
    """Return musl's version, which its loader tells when it is called without arguments."""
    loader = os.path.join(_musl_folder(), "libc.so")
    if not os.access(loader, os.X_OK):
        return "unknown"
    done = process.run([loader], check=False)
    for line in done.stderr.decode("utf-8", "replace").splitlines():
        if line.startswith("Version "):
            return line.removeprefix("Version ").strip()
    return "unknown"


def toolchain() -> dict[str, str]:
    """Return what decides on the result: versions, and digests of what is linked in."""
    from apppot.kit.verify import sha256_of

    found = {
        "gcc": _first_line("gcc", "--version"),
        "binutils": _first_line("ld", "--version"),
        "lz4": _first_line("lz4", "--version"),
        "musl": _musl_version(),
    }
    for name in (*LIBRARIES, "musl libc.a"):
        found[name] = "sha256:" + sha256_of(library(name))
    return found
