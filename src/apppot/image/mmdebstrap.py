"""Call mmdebstrap: choose the way in which it gets by without root, follow its progress."""

from __future__ import annotations

import os
import re
import signal
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import IO, TYPE_CHECKING, Any

from apppot import paths, process
from apppot.errors import AppPotError, ImageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

TAIL_LINES = 12
LONGEST_LINE = 200
GRACE = 30.0
_STEP = re.compile(r"I: (.+?)\.\.\.$")
_KEYS = "the keys of this distribution are missing: install its archive keyring, or use --keyring"
_LIBC = (
    "fakechroot cannot install a release whose C library is not this computer's: use --mode"
    " machine, or get subordinate ids (package uidmap, /etc/subuid, /etc/subgid)"
)
_HINTS = {
    "No space left on device": "the disk is full: set APPPOT_TMPDIR to a folder on a bigger disk",
    "is expired": "the mirror is out of date: choose another with --mirror, or use"
    " --allow-expired for an archive of old packages",
    "is not valid yet": "is this computer's clock right?",
    "GLIBC_PRIVATE": _LIBC,
    "inside the chroot doesn't work under fakechroot": _LIBC,
    "NO_PUBKEY": _KEYS,
    "is not signed": _KEYS,
    "Unable to locate package": "check the names after --include; are they in these --components?",
    "Could not resolve": "is the network up? Choose a mirror with --mirror URL",
    "Failed to fetch": "the mirror failed: run it again, or choose another with --mirror URL",
}


class Mode(StrEnum):
    """How mmdebstrap makes files of other owners."""

    ROOT = "root"
    UNSHARE = "unshare"
    FAKECHROOT = "fakechroot"
    MACHINE = "machine"  # as root, in a machine of our own: see inside.py


@dataclass(frozen=True)
class Plan:
    """One call of mmdebstrap. `sources` are lines of sources.list."""

    mode: Mode
    suite: str
    sources: tuple[str, ...]
    variant: str = "minbase"
    include: tuple[str, ...] = ()
    keyring: str = ""
    allow_expired: bool = False
    mounts: bool = True


def arguments(plan: Plan) -> list[str]:
    """Return the command that writes a tar archive to standard output."""
    argv = [
        "mmdebstrap",
        "--verbose",
        f"--mode={Mode.ROOT if plan.mode is Mode.MACHINE else plan.mode}",
        f"--variant={plan.variant}",
        "--format=tar",
    ]
    if plan.include:
        argv.append("--include=" + ",".join(plan.include))
    if plan.keyring:
        argv.append(f"--keyring={plan.keyring}")
    if plan.allow_expired:
        argv.append('--aptopt=Acquire::Check-Valid-Until "false"')
    if not plan.mounts:
        argv.append("--skip=check/canmount,chroot/mount")
    return [*argv, plan.suite, "-", *plan.sources]


def environment(epoch: int | None, folder: str) -> dict[str, str]:
    """Return the environment for mmdebstrap; `folder` is for its temporary files."""
    path = os.environ.get("PATH", process.CLEAN_PATH)
    extra = {"TMPDIR": folder, "DEBIAN_FRONTEND": "noninteractive", "PERL_HASH_SEED": "0"}
    extra["PATH"] = f"{path}:{process.CLEAN_PATH}"  # ordinary users often lack /usr/sbin
    if epoch is not None:
        extra["SOURCE_DATE_EPOCH"] = str(epoch)
    return process.clean_environment(extra)


def default_sources(suite: str) -> str:
    """Return the sources.list that mmdebstrap would use by itself."""
    argv = [
        "mmdebstrap",
        "--mode=chrootless",
        "--variant=custom",
        "--format=null",
        "--quiet",
        "--skip=check/signed-by",
        '--setup-hook=cat "$1"/etc/apt/sources.list >&2; exit 1',
        suite,
        "-",
    ]
    done = process.run(argv, env=environment(None, temporary_folder()), check=False, timeout=60)
    return done.stderr.decode("utf-8", "replace")


def temporary_folder() -> str:
    """Return the folder for the system that is being installed."""
    return paths.scratch_dir()


def choose(
    wanted: str = "",
    *,
    foreign: bool = False,
    machine: Callable[[], str] = lambda: "no machines",
) -> tuple[Mode, str, bool]:
    """Return mode, temporary folder, and whether it can mount; each candidate is tried.

    With `wanted` only that mode is. `machine` tells why a machine cannot be used; a `foreign`
    release, which is not the host's own, has it tried before fakechroot, which is faster but
    needs the host's C library. Raises AppPotError with what was wrong with each.
    """
    problems: list[str] = []
    for mode in _order(wanted, foreign=foreign):
        problem = machine() if mode is Mode.MACHINE else _missing()
        folder, mounts = temporary_folder(), True
        if problem or mode is Mode.MACHINE:
            pass
        elif mode is Mode.ROOT:
            problem = _try_root(folder)
            mounts = _works(["unshare", "--mount", "true"], folder) == ""
        elif mode is Mode.UNSHARE:
            folder, problem = _find_unshare(folder)
        else:
            problem = _works(["fakechroot", "fakeroot", "true"], folder)
        if not problem:
            return mode, folder, mounts
        problems.append(f"{mode}: {problem}")
    raise AppPotError(
        "there is no way to install a system without root here: " + "; ".join(problems),
        hint=_hint(),
    )


def _order(wanted: str, *, foreign: bool) -> tuple[Mode, ...]:
    """Return the modes to try: the fastest first, and last what will hardly work."""
    if wanted:
        return (Mode(wanted),)
    root = (Mode.ROOT,) if os.geteuid() == 0 else ()
    if foreign:
        return (*root, Mode.UNSHARE, Mode.MACHINE, Mode.FAKECHROOT)
    return (*root, Mode.UNSHARE, Mode.FAKECHROOT, Mode.MACHINE)


def _missing() -> str:
    """Return what is wrong if mmdebstrap is not installed, or ''."""
    try:
        process.find_program("mmdebstrap")
    except AppPotError as error:
        return error.message
    return ""


def _hint() -> str:
    """Return what can be done if no mode works."""
    if _missing():
        return "install the package mmdebstrap"
    return (
        "install the packages fakechroot and fakeroot, or let the administrator allow user"
        " namespaces and give you subordinate ids (package uidmap, /etc/subuid, /etc/subgid)"
    )


def _find_unshare(folder: str) -> tuple[str, str]:
    """Return a folder that other users can enter, and what is wrong with user namespaces, or ''."""
    for candidate in dict.fromkeys((folder, "/var/tmp", "/tmp")):  # noqa: S108
        problem = _try_unshare(candidate)
        if "TMPDIR" not in problem:
            return candidate, problem
    return folder, problem


def _try_root(folder: str) -> str:
    """Return why this user, who is called root, is not: '' if files can be given away."""
    import tempfile

    if os.geteuid() != 0:
        return "you are not root"
    with tempfile.NamedTemporaryFile(dir=folder) as file:
        try:
            os.chown(file.name, 65534, 65534)
        except OSError as error:
            return f"cannot give files away ({error.strerror}): a namespace with one user"
    return ""


def _try_unshare(folder: str) -> str:
    """Return what is wrong with user namespaces and subordinate ids here, or ''."""
    problem = _works(["mmdebstrap", "--unshare-helper", "true"], folder)
    if problem:
        return problem
    if _works(["mmdebstrap", "--unshare-helper", "test", "-x", folder], folder):
        return f"other users cannot enter TMPDIR {folder}"
    return ""


def _works(argv: Sequence[str], folder: str) -> str:
    """Run a program; return '' if it succeeds, else its last words."""
    try:
        done = process.run(argv, env=environment(None, folder), check=False, timeout=30)
    except AppPotError as error:
        return error.message
    if done.returncode == 0:
        return ""
    words = done.stderr.decode("utf-8", "replace").strip().splitlines()
    return words[-1].removeprefix("E: ") if words else f"status {done.returncode}"


def run(
    plan: Plan,
    *,
    epoch: int,
    folder: str,
    lock: int,
    archive: IO[bytes],
    log: str,
    step: Callable[[str], None],
) -> None:
    """Write the system's tar archive to the file `archive`; raises ImageError.

    mmdebstrap works in `folder`, which is locked by `lock` until its last process ends. Its output
    goes to the file `log`; `step` is told each of its steps. On SIGINT, SIGTERM and SIGHUP it is
    stopped, its temporary files go, and KeyboardInterrupt is raised.
    """
    argv = arguments(plan)
    program = process.find_program("mmdebstrap")
    os.makedirs(os.path.dirname(log), exist_ok=True)
    with _interruptible(), open(log, "wb", buffering=0) as record, open(os.devnull, "rb") as null:
        record.write(f"$ {process.command_line(argv)}\n".encode())
        reader, end = os.pipe2(os.O_CLOEXEC)
        # A signal that comes once it has been started must find it.
        with open(reader, "rb") as output, process.signals_held():
            try:
                pid = process.spawn(
                    [program, *argv[1:]],
                    descriptors={0: null.fileno(), 1: archive.fileno(), 2: end, 3: lock},
                    env=environment(epoch, folder),
                    group=True,
                )
            finally:
                os.close(end)
            try:
                process.release_signals()
                follow(output, record, step)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
            except BaseException:
                _stop(pid, output.fileno())
                raise
    if code != 0:
        raise failure(code, log)


def follow(output: IO[bytes], record: IO[bytes], step: Callable[[str], None]) -> None:
    """Copy mmdebstrap's output to the log, and tell each of its steps."""
    for line in output:
        record.write(line)
        found = _STEP.match(line.decode("utf-8", "replace").rstrip())
        if found:
            step(found[1])


@contextmanager
def _interruptible() -> Iterator[None]:
    """Let SIGTERM and SIGHUP be like Ctrl-C for a while."""

    def interrupt(_number: int, _frame: Any) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGTERM, signal.SIGHUP)
    try:
        before = {number: signal.signal(number, interrupt) for number in numbers}
    except ValueError:  # not the main thread: the caller takes care of signals
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(pid: int, output: int) -> None:
    """Stop mmdebstrap and all that it has started; let it remove its temporary files."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    handlers = {number: signal.signal(number, signal.SIG_IGN) for number in numbers}
    try:
        with suppress(ProcessLookupError):
            os.killpg(pid, signal.SIGINT)
        end = time.monotonic() + GRACE
        os.set_blocking(output, False)
        while os.waitpid(pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > end:
                os.killpg(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                break
            with suppress(BlockingIOError):  # it must not wait for its reader
                os.read(output, 1 << 16)
            time.sleep(0.02)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def failure(code: int, log: str) -> ImageError:
    """Return the error for a mmdebstrap that failed, with its log's last lines."""
    with open(log, encoding="utf-8", errors="replace") as file:
        lines = [line.rstrip() for line in file if line.strip()]
    tail = "\n".join(f"    {line[:LONGEST_LINE]}" for line in lines[-TAIL_LINES:])
    text = "\n".join(lines)
    hint = next((hint for words, hint in _HINTS.items() if words in text), "read the log")
    how = f"was killed by signal {-code}" if code < 0 else f"failed with status {code}"
    return ImageError(f"mmdebstrap {how}; its log is {log}\n{tail}", hint=hint)
