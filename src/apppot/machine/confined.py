"""The words before a program of the host's distribution: what `confine` enforces on it."""

from __future__ import annotations

import os

# Where the dynamic linker, libraries, modules and firmware may be.
_SYSTEM = ("/usr", "/lib", "/lib64", "/nix/store", "/gnu/store")
_SYSTEM_FILES = ("/proc", "/sys/devices/system", "/etc/ld.so.cache", "/dev/urandom")


def words(confine: str, program: str, cpus: tuple[int, ...]) -> list[str]:
    """Return them without the last `--`: its libraries, these CPUs, no TCP, and nothing else."""
    found = [confine, "--parent", str(os.getpid()), "--cpus", ",".join(map(str, cpus))]
    found += ["--landlock", "--no-tcp", "--rw", os.devnull]  # guests' connections are passt's
    own = os.path.dirname(os.path.dirname(os.path.realpath(program)))
    for path in dict.fromkeys((*_SYSTEM, *([] if own == "/" else [own]))):
        found += ["--rx", path]
    for path in _SYSTEM_FILES:
        found += ["--ro", path]
    return found
