"""What the engines kvm and tcg need of this host: QEMU, the kit's PC kernel, and a KVM that works.

On the way to `apppot run`: where there is no KVM or no QEMU, this costs some 0.05 ms.
"""

from __future__ import annotations

import os

from apppot import process
from apppot.errors import AppPotError, MachineError
from apppot.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from apppot.kit import Kit

DEVICE = "/dev/kvm"
PROGRAM = "qemu-system-x86_64"
_NAMES = (PROGRAM, "qemu-kvm")  # the second is what Red Hat's systems have
_MORE_FOLDERS = ("/usr/libexec",)
_WORKS, _FAILS = "works", "fails"


def program() -> str:
    """Return QEMU's path; raises MachineError if it is not installed."""
    folders = [*os.environ.get("PATH", "").split(":"), *process.CLEAN_PATH.split(":")]
    for name in _NAMES:
        for folder in (*folders, *_MORE_FOLDERS):
            path = f"{folder}/{name}"
            if folder.startswith("/") and os.access(path, os.X_OK) and os.path.isfile(path):
                return path
    raise MachineError(
        f"QEMU is not installed: there is no {PROGRAM}",
        hint="install the package qemu-system-x86 (Debian, Ubuntu) or qemu-kvm (Red Hat);"
        " the engine uml needs neither",
    )


def problem() -> str:
    """Return why no machine can be started by QEMU here, or ""."""
    from apppot import kit

    try:
        program()
        kit.find().file(kit.PC_KERNEL)
    except AppPotError as error:
        return error.message
    return ""


def kvm() -> str:
    """Return why the engine kvm is the one to use, or "" if it does not work here.

    The first call on a host (since its start, for this kit, QEMU and user) boots a kernel; the
    answer is kept in the user's cache.
    """
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return ""
    from apppot import kit as kits

    kit = kits.find()
    try:
        files = (program(), kit.file(kits.PC_KERNEL), kit.file(kits.AGENT))
    except AppPotError:
        return ""
    return _tried(kit, files)


def _tried(kit: Kit, files: tuple[str, ...]) -> str:
    from apppot.machine.probes import remembered

    key = f"kvm {os.geteuid()} {remembered.files_key(files)}"
    known = remembered.recall(key, (_WORKS, _FAILS))
    if known is None:
        known = _try(kit)
        remembered.remember(key, *known)
    return known[1] if known[0] == _WORKS else ""


def _try(kit: Kit) -> tuple[str, str]:
    """Boot a kernel with KVM; without hardware for it, guests could run for seconds in vain."""
    from apppot.machine.probes import kvm, pc

    if not kvm.backend()["hardware"]:
        return _FAILS, f"{DEVICE} opens, but the processor shows no vmx or svm"
    found = pc.kvm(kit)
    return (_WORKS if found.outcome is pc.Outcome.WORKS else _FAILS), found.found
