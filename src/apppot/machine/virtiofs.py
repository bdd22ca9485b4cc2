"""virtiofsd, where it is installed: a process that serves one shared folder to QEMU's machine.

Without it QEMU serves folders itself, as 9p. So it does where it translates instructions.
"""

from __future__ import annotations

import os

from apppot import process
from apppot.lean import TYPE_CHECKING
from apppot.machine.engine import FIRST
from apppot.machine.probes import remembered

if TYPE_CHECKING:
    from collections.abc import Sequence

PROGRAM = "virtiofsd"
# Not QEMU's own of before 8.0 (/usr/lib/qemu/virtiofsd): it needs root.
_FOLDERS = ("/usr/libexec", "/usr/lib", "/usr/local/libexec")
_FITS, _MISFITS = "fits", "misfits"
# It keeps each file open that the guest knows, and fails for want of descriptors; 9p does not.
FEWEST_DESCRIPTORS = 1 << 19
# virtiofsd writes into the guest's memory unseen by QEMU, which then goes on with its translation
# of what was there before: programs in the folder crash when they are started again.
EVEN_TRANSLATED = False
# --cache=never has the host asked each time, as 9p is; programs may map files all the same (1.9).
# Whoever is not root cannot make files in other users' names: root's are the caller's (1.13).
_NEEDED = ("--fd", "--allow-mmap", "--translate-uid", "--readonly")


def program(*, translated: bool) -> str | None:
    """Return virtiofsd's path; None if there is none, or one that would not do here."""
    if translated and not EVEN_TRANSLATED:
        return None
    import resource

    from apppot.machine import virtual

    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if most != resource.RLIM_INFINITY and most < FEWEST_DESCRIPTORS:
        return None
    path = virtual.find((PROGRAM,), _FOLDERS)
    if path is None:
        return None
    try:
        key = f"{PROGRAM} {remembered.files_key((path,))}"
    except OSError:
        return None
    known = remembered.recall(key, (_FITS, _MISFITS))
    if known is None:
        known = _look(path)
        remembered.remember(key, *known)
    return path if known[0] == _FITS else None


def _look(path: str) -> tuple[str, str]:
    said = process.run([path, "--help"], check=False).stdout.decode("utf-8", "replace")
    missing = [option for option in _NEEDED if option not in said]
    return (_MISFITS, f"it has no {', '.join(missing)}") if missing else (_FITS, path)


def serves(folder: str) -> bool:
    """Tell whether it can serve a folder: its name must be UTF-8 (virtiofsd 1.13)."""
    try:
        os.path.realpath(folder).encode()
    except UnicodeEncodeError:
        return False
    return True


def arguments(program: str, listening: int, folder: int, *, read_only: bool) -> list[str]:
    """Return virtiofsd's command line; the folder and the listening socket are descriptors."""
    words = [
        program,
        f"--fd={listening}",
        f"--shared-dir=/proc/self/fd/{folder}",
        "--sandbox=none",  # Landlock is around it; other kinds need privileges
        "--cache=never",
        "--allow-mmap",
        "--xattr",
        "--log-level=error",
    ]
    if read_only:
        words.append("--readonly")
    if os.geteuid() != 0:
        everyone = (1 << 32) - 1
        words.append(f"--translate-uid=squash-guest:0:{os.geteuid()}:{everyone}")
        words.append(f"--translate-gid=squash-guest:0:{os.getegid()}:{everyone}")
    return words


def start(words: Sequence[str], sockets: str, descriptors: dict[int, int]) -> tuple[int, int]:
    """Start it with a socket that nobody else can reach; return its process id and our end.

    `words` is the command line, with the socket as FIRST; `sockets` is a folder of the user's own.
    """
    from socket import AF_UNIX, socket

    path = f"{sockets}/virtiofs"
    with socket(AF_UNIX) as listening, socket(AF_UNIX) as ours:
        listening.bind(path)
        try:
            listening.listen(1)
            ours.connect(path)
        finally:
            os.unlink(path)
        pid = process.spawn(
            words,
            descriptors={**descriptors, FIRST: listening.fileno()},
            env={"PATH": process.CLEAN_PATH},
            deaf=True,
        )
        return pid, ours.detach()
