"""Which process mode of User-Mode Linux works here: booted once, then remembered.

On the way to `apppot run`: with a remembered answer this costs some 0.1 ms.
"""

from __future__ import annotations

import os
import resource
from enum import StrEnum

from apppot.lean import TYPE_CHECKING, dataclass
from apppot.machine.probes import remembered

if TYPE_CHECKING:
    from apppot.kit import Kit
    from apppot.machine.probes.boot import Boot


class Mode(StrEnum):
    """How a UML kernel runs its guest's processes."""

    SECCOMP = "seccomp"
    PTRACE = "ptrace"
    NONE = "none"


@dataclass(frozen=True)
class UmlMode:
    """The best mode that works, and why this one."""

    mode: Mode
    reason: str


def uml_mode(kit: Kit | None = None) -> UmlMode:
    """Return the mode to boot UML in: seccomp if it works, else ptrace, else none.

    The first call on a host (since its start, for this kit and user) boots a kernel; the answer is
    kept in the user's cache. "none" and answers that a time-out had a part in are not kept.
    Raises KitError if there is no kit.
    """
    if kit is None:
        from apppot import kit as kits

        kit = kits.find()
    key = _key(kit)
    known = _recall(key)
    if known is not None:
        return known
    from apppot.machine.probes import boot  # the slow road

    tries = []
    for mode in (Mode.SECCOMP, Mode.PTRACE):
        done = boot.boot(kit, mode)
        tries.append(done)
        if done.ok:
            answer = UmlMode(mode, _reason(mode, tries))
            if not any(one.timed_out for one in tries):
                _remember(key, answer)
            return answer
    return UmlMode(Mode.NONE, _reason(Mode.NONE, tries))


def forget_uml_mode() -> None:
    """Forget the answers for this host: for an engine whose machine did not start."""
    remembered.forget()


def _reason(mode: Mode, tries: list[Boot]) -> str:
    failed = "; ".join(f"{one.mode}: {one.why}" for one in tries if not one.ok)
    if mode is Mode.NONE:
        return failed
    return f"a kernel booted in {mode} mode" + (f" ({failed})" if failed else "")


def _key(kit: Kit) -> str:
    """Return what the answer depends on: the kit's files, the user, and the user's fences."""
    own = (os.geteuid(), resource.getrlimit(resource.RLIMIT_AS)[0], _fences())
    files = remembered.files_key((kit.file("bin/linux"), kit.file("boot/agent.cpio")))
    return f"{' '.join(map(str, own))} {files}"


def _fences() -> str:
    """Return whether a seccomp filter is on this process, and how many: "2,1"."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as file:
            return ",".join(line.split()[-1] for line in file if line.startswith("Seccomp"))
    except OSError:
        return "?"


def _recall(key: str) -> UmlMode | None:
    known = remembered.recall(key, (Mode.SECCOMP, Mode.PTRACE))
    return UmlMode(Mode(known[0]), known[1]) if known else None


def _remember(key: str, answer: UmlMode) -> None:
    remembered.remember(key, answer.mode, answer.reason)
