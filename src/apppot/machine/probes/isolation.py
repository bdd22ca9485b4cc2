"""Probe what confines programs: Landlock, and user namespaces."""

from __future__ import annotations

import ctypes
import errno
import os
import struct

from apppot import process
from apppot.errors import ProcessError
from apppot.machine.probes import system
from apppot.machine.probes.finding import Finding, Outcome

_DEADLINE = 5.0
_PR_SET_NO_NEW_PRIVS = 38
_RULESET_VERSION = 1
_ACCESS_READ_FILE = 1 << 2
_NEWNS, _NEWUSER = 0x00020000, 0x10000000
_MS_REC, _MS_PRIVATE = 16384, 1 << 18
_SYSCTLS = (
    ("kernel/unprivileged_userns_clone", "0"),
    ("user/max_user_namespaces", "0"),
    ("kernel/apparmor_restrict_unprivileged_userns", "1"),
    ("kernel/apparmor_restrict_unprivileged_unconfined", "1"),
)


def landlock() -> Finding:
    """Ask for Landlock's version, then confine a child and see it denied."""
    meaning = "a machine's kernel is confined to its own files on this side too"
    without = "machines run, but guest root has the access of the calling user"
    advice = "none needed; a kernel of 5.13 or later has it (boot option lsm=landlock,...)"
    try:
        version = process.in_child(_landlock_version, _DEADLINE)
    except ProcessError as error:
        return Finding("landlock", Outcome.FAILS, error.message, without, advice)
    details = {"abi": version}
    try:
        denied = process.in_child(_confined, _DEADLINE)
    except ProcessError as error:
        found = f"version {version} is there, but a child could not be confined: {error.message}"
        return Finding("landlock", Outcome.FAILS, found, without, advice, details)
    if not denied:
        found = f"version {version} is there, but a confined child could still read"
        return Finding("landlock", Outcome.FAILS, found, without, advice, details)
    found = f"version {version}; a confined child was denied"
    return Finding("landlock", Outcome.WORKS, found, meaning, "", details)


def _landlock_version() -> int:
    try:
        return system.syscall(system.SYS_LANDLOCK_CREATE_RULESET, None, 0, _RULESET_VERSION)
    except OSError as error:
        why = {
            errno.ENOSYS: "the kernel has no Landlock",
            errno.EOPNOTSUPP: "Landlock is built in, but not switched on at boot",
            errno.EPERM: "a sandbox around us forbids Landlock",
        }.get(error.errno or 0, os.strerror(error.errno or 0))
        raise OSError(error.errno, why) from error


def _confined() -> bool:
    """Forbid all reading of files; return whether that is obeyed."""
    with open("/proc/self/stat", "rb") as file:  # readable before
        file.read(1)
    attributes = struct.pack("Q", _ACCESS_READ_FILE)
    ruleset = system.syscall(system.SYS_LANDLOCK_CREATE_RULESET, attributes, len(attributes), 0)
    system.checked(system.libc().prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
    system.syscall(system.SYS_LANDLOCK_RESTRICT_SELF, ruleset, 0)
    try:
        os.close(os.open("/proc/self/stat", os.O_RDONLY))
    except PermissionError:
        return True
    return False


def user_namespaces() -> Finding:
    """Make a user namespace in a child, map the user to root, and mount something."""
    meaning = "not needed by runs; building images without root is more faithful with them"
    try:
        process.in_child(_unshare, _DEADLINE)
    except ProcessError as error:
        reasons = forbidding_sysctls()
        why = ", ".join(reasons) or "no setting forbids it: a chroot or a sandbox around us does"
        found = f"{error.message} ({why})"
        without = "nothing that runs appliances needs them; root-like builds use other ways"
        return Finding("user-namespaces", Outcome.FAILS, found, without, "", {"sysctls": reasons})
    found = "made one, became root in it, and mounted a file system"
    return Finding("user-namespaces", Outcome.WORKS, found, meaning)


def _unshare() -> None:
    libc = system.libc()
    uid, gid = os.geteuid(), os.getegid()
    _step("unshare", lambda: system.checked(libc.unshare(_NEWUSER | _NEWNS)))
    for name, text in (
        ("setgroups", "deny"),
        ("uid_map", f"0 {uid} 1"),
        ("gid_map", f"0 {gid} 1"),
    ):
        _step(f"writing {name}", lambda name=name, text=text: _write(name, text))
    flags = ctypes.c_ulong(_MS_REC | _MS_PRIVATE)
    _step("a mount", lambda: system.checked(libc.mount(b"none", b"/", None, flags, None)))
    _step(
        "a mount",
        lambda: system.checked(libc.mount(b"probe", b"/tmp", b"tmpfs", ctypes.c_ulong(0), None)),
    )


def _step(what: str, call: object) -> None:
    assert callable(call)
    try:
        call()
    except OSError as error:
        raise OSError(error.errno, f"{what}: {os.strerror(error.errno or 0)}") from error


def _write(name: str, text: str) -> None:
    with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
        file.write(text)


def forbidding_sysctls(root: str = "/") -> list[str]:
    """Return the settings that forbid user namespaces, as `name=value`."""
    found = []
    for path, bad in _SYSCTLS:
        value = system.text(os.path.join(root, "proc/sys", path))
        if value == bad:
            found.append(f"{path.replace('/', '.')}={value}")
    return found
