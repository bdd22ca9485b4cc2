"""What the reader of a result has to know about the host: no names, no paths."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess


def _field(path: str, key: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                name, _, value = line.partition(":" if "cpuinfo" in path else "=")
                if name.strip() == key:
                    return value.strip().strip('"')
    except OSError:
        pass
    return ""


def kind() -> str:
    """Return a word for the sort of host, for file names: vm-2cpu, metal-16cpu."""
    virtual = "hypervisor" in _field("/proc/cpuinfo", "flags").split()
    return f"{'vm' if virtual else 'metal'}-{len(os.sched_getaffinity(0))}cpu"


def facts() -> dict[str, str]:
    """Return the host's description, for the head of a result."""
    found = {
        "Host": kind(),
        "Processor": _field("/proc/cpuinfo", "model name") or platform.machine(),
        "Memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') / 2**30:.0f} GB",
        "System": _field("/etc/os-release", "PRETTY_NAME"),
        "Kernel": platform.release(),
        "Python": platform.python_version(),
        "User": "root" if os.geteuid() == 0 else "an ordinary user",
        "Load at the start": f"{os.getloadavg()[0]:.1f}",
    }
    for name, words in {
        "podman": ["podman", "--version"],
        "runc": ["runc", "--version"],
        "Apptainer": ["apptainer", "--version"],
        "Charliecloud": ["ch-run", "--version"],
        "bwrap": ["bwrap", "--version"],
        "PRoot": ["proot", "--version"],
    }.items():
        if shutil.which(words[0]):
            found[name] = _version(words)
    return found


def _version(words: list[str]) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    for word in (done.stdout + done.stderr).split():
        version = word.strip("v,:()")
        if version[:1].isdigit() and "." in version:
            return version
    return "version unknown"
