"""Probe the folders that runs use: scratch, store, running machines, shared folders."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import struct
import tempfile

from apppot import paths
from apppot.errors import AppPotError
from apppot.machine import limits
from apppot.machine.probes import system
from apppot.machine.probes.finding import Finding, Outcome
from apppot.machine.rundir import RunDir, control_address

_GET_USER_QUOTA = 0x800007 << 8
_LITTLE, _TOO_LITTLE = limits.GIB, 64 * limits.MIB
_FEW_FILES = 1000


def disk() -> Finding:
    """Write a file into the scratch folder, and look at all that limits its size."""
    folder = paths.scratch_dir()
    advice = "set APPPOT_TMPDIR to a folder with more room, on a local disk"
    try:
        _write_unlinked(folder)
    except OSError as error:
        found = f"cannot write to {folder}: {error.strerror}"
        return Finding("disk", Outcome.FAILS, found, "runs have no scratch space", advice)
    status = os.statvfs(folder)
    rooms = [(status.f_bavail * status.f_frsize, f"free in {folder}")]
    largest, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    if largest != resource.RLIM_INFINITY:
        rooms.append((largest, "'ulimit -f', the largest file"))
    quota = user_quota(folder)
    if quota is not None:
        rooms.append((quota, f"left of the user's quota on {folder}"))
    room, source = min(rooms)
    files = status.f_favail if status.f_files else None
    found = f"{limits.show_size(room)} {source}"
    details = {"room": [{"bytes": n, "source": text} for n, text in rooms], "free_inodes": files}
    meaning = "the scratch space of all running machines together"
    if files is not None and files < _FEW_FILES:
        found += f", but only {files} more files can be made"
        return Finding("disk", Outcome.LIMITED, found, meaning, advice, details)
    outcome = Outcome.WORKS
    if room < _LITTLE:
        outcome = Outcome.FAILS if room < _TOO_LITTLE else Outcome.LIMITED
    return Finding("disk", outcome, found, meaning, "" if room >= _LITTLE else advice, details)


def user_quota(folder: str) -> int | None:
    """Return the bytes left of this user's quota on the folder's file system, if one is seen."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.suppress(OSError))
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        stack.callback(os.close, descriptor)
        record = bytearray(128)
        buffer = system.writable(record)
        system.syscall(system.SYS_QUOTACTL_FD, descriptor, _GET_USER_QUOTA, os.getuid(), buffer)
        hard, _, used = struct.unpack_from("QQQ", record)
        return max(0, hard * 1024 - used) if hard else None
    return None


def _write_unlinked(folder: str) -> None:
    """Write 1 MiB to a file that has no name."""
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(bytes(1 << 20))
        file.flush()
        os.fsync(file.fileno())


def store() -> Finding:
    """See which stores can be read, and write to the user's."""
    own = paths.store_dir()
    readable = [path for path in paths.store_dirs() if os.access(path, os.R_OK | os.X_OK)]
    details = {"own": own, "readable": readable}
    problem = _try_to_make(own)
    if not problem:
        found = f"{own} can be written" if os.path.isdir(own) else f"{own} can be made"
        return Finding("store", Outcome.WORKS, found, "images can be kept there", "", details)
    found = f"{own}: {problem}"
    advice = "set APPPOT_STORE to a folder of yours"
    if readable:
        meaning = "images from " + ", ".join(readable) + " can be run; none can be added"
        return Finding("store", Outcome.LIMITED, found, meaning, advice, details)
    return Finding("store", Outcome.FAILS, found, "there is no place for images", advice, details)


def _try_to_make(path: str) -> str:
    """Return why files cannot be made in the folder `path`, or in what will hold it; or ""."""
    existing = path
    while not os.path.lexists(existing) and os.path.dirname(existing) != existing:
        existing = os.path.dirname(existing)
    try:
        with tempfile.TemporaryFile(dir=existing):
            return ""
    except OSError as error:
        return (error.strerror or str(error)) + (f" in {existing}" if existing != path else "")


def runtime() -> Finding:
    """Make the folder of running machines, with a socket in it."""
    import socket

    try:
        folder = paths.runtime_dir()
    except AppPotError as error:
        return Finding(
            "runtime", Outcome.FAILS, error.message, "no machine can be started", error.hint
        )
    try:
        with (
            RunDir.make() as run,
            control_address(run.path) as path,
            socket.socket(socket.AF_UNIX) as server,
        ):
            server.bind(path)
    except OSError as error:
        found = f"no socket can be made in {folder}: {error.strerror or error}"
        advice = "set APPPOT_RUNTIME_DIR to a folder on a local disk"
        return Finding("runtime", Outcome.FAILS, found, "no machine can be started", advice)
    found = f"{folder} is private and takes sockets"
    return Finding("runtime", Outcome.WORKS, found, "running machines are listed there")


def shared_folders() -> Finding:
    """Do in the current folder what sharing it with a guest needs."""
    folder = os.getcwd()
    details: dict[str, object] = {"folder": folder}
    try:
        details["o_tmpfile"] = _unnamed_file(folder)
    except OSError as error:
        found = f"{folder}: {error.strerror}"
        meaning = "the payload can read the files here, but not write any"
        advice = "start runs in a folder that you can write to"
        return Finding("shared-folders", Outcome.LIMITED, found, meaning, advice, details)
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"apppot")
        file.flush()
        try:
            with open(f"/proc/self/fd/{file.fileno()}", "rb") as again:
                same = again.read() == b"apppot"
        except OSError as error:
            found = f"an unlinked file in {folder} cannot be opened again: {error.strerror}"
            meaning = "guest programs that open files again by /proc/self/fd will fail"
            advice = "use a job directory on a local disk, with /proc mounted"
            return Finding("shared-folders", Outcome.LIMITED, found, meaning, advice, details)
    if not same:
        return Finding("shared-folders", Outcome.FAILS, f"{folder} gives back other data")
    found = f"unnamed and unlinked files work in {folder}"
    return Finding("shared-folders", Outcome.WORKS, found, "it can be a job directory", "", details)


def _unnamed_file(folder: str) -> bool:
    """Return whether O_TMPFILE works; raises OSError if no file can be made at all."""
    try:
        os.close(os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except OSError as error:
        if error.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT):
            with tempfile.TemporaryFile(dir=folder):
                return False
        raise
    return True
