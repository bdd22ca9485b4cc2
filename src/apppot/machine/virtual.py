"""What the engines kvm and tcg need of this host: QEMU, the kit's PC kernel, and a KVM that works.

On the way to `apppot run`: where there is no KVM or no QEMU, this costs some 0.05 ms.
"""

from __future__ import annotations

import os

from apppot import process
from apppot.errors import AppPotError, MachineError
from apppot.lean import dataclass

DEVICE = "/dev/kvm"
PROGRAM = "qemu-system-x86_64"
_NAMES = (PROGRAM, "qemu-kvm")  # the second is what Red Hat's systems have
_MORE_FOLDERS = ("/usr/libexec",)
_WORKS, _FAILS = "works", "fails"


@dataclass(frozen=True)
class Answer:
    """Whether something works, and why that is believed."""

    works: bool
    why: str


def program() -> str:
    """Return QEMU's path; raises MachineError if it is not installed."""
    found = find(_NAMES, _MORE_FOLDERS)
    if found:
        return found
    raise MachineError(
        f"QEMU is not installed: there is no {PROGRAM}",
        hint="install the package qemu-system-x86 (Debian, Ubuntu) or qemu-kvm (Red Hat);"
        " the engine uml needs neither",
    )


def find(names: tuple[str, ...], more_folders: tuple[str, ...]) -> str | None:
    """Return the first of these programs on PATH, or in the system's or these folders."""
    folders = [*os.environ.get("PATH", "").split(":"), *process.CLEAN_PATH.split(":")]
    for name in names:
        for folder in (*folders, *more_folders):
            path = f"{folder}/{name}"
            if folder.startswith("/") and os.access(path, os.X_OK) and os.path.isfile(path):
                return path
    return None


def problem() -> str:
    """Return why no machine can be started by QEMU here, or ""."""
    from apppot import kit

    try:
        program()
        kit.find().file(kit.PC_KERNEL)
    except AppPotError as error:
        return error.message
    return ""


def kvm(*, thorough: bool = False) -> Answer:
    """Return whether the engine kvm works here.

    The first call on a host (since its start, for this kit, QEMU and user) boots a kernel; the
    answer is kept in the user's cache. Where the processor shows nothing that KVM could use, that
    is done only if this is to be `thorough`: guests could run for seconds in vain.
    """
    from apppot import kit as kits

    try:
        os.close(os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC))
        kit = kits.find()
        files = (program(), kit.file(kits.PC_KERNEL), kit.file(kits.AGENT))
    except OSError as error:
        return Answer(False, f"{DEVICE}: {error.strerror}")
    except AppPotError as error:
        return Answer(False, error.message)
    from apppot.machine.probes import remembered

    key = f"kvm {os.geteuid()} {remembered.files_key(files)}"
    known = remembered.recall(key, (_WORKS, _FAILS))
    if known is None:
        from apppot.machine.probes import kvm as device
        from apppot.machine.probes import pc  # the slow road

        if not thorough and not device.backend()["hardware"]:
            return Answer(False, f"{DEVICE} opens, but the processor shows no vmx or svm")
        found = pc.kvm(kit)
        known = (_WORKS if found.outcome is pc.Outcome.WORKS else _FAILS), found.found
        remembered.remember(key, *known)
    return Answer(known[0] == _WORKS, known[1])
