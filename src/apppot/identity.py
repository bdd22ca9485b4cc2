"""Whom a payload runs as: the caller, root, a number, or a user of the image."""

from __future__ import annotations

import os
import pwd

from apppot.errors import UsageError
from apppot.lean import dataclass

_FIRST = frozenset("abcdefghijklmnopqrstuvwxyz_")
_MORE = _FIRST | frozenset("0123456789-")
_LONGEST = 31


@dataclass(frozen=True)
class Identity:
    """Whom the payload runs as: numbers, or a name of the image's own."""

    uid: int
    gid: int
    name: str
    home: str
    image_name: str = ""  # looked up in the guest's /etc/passwd by the agent


def _is_account(name: str) -> bool:
    return 0 < len(name) <= _LONGEST and name[0] in _FIRST and _MORE.issuperset(name)


def caller() -> Identity:
    """Return the calling user under a name that every Linux accepts."""
    uid, gid = os.getuid(), os.getgid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        name = ""  # batch nodes and containers do not always know their users
    if not _is_account(name):
        name = "user"
    home = "/root" if uid == 0 else f"/home/{name}"
    return Identity(uid, gid, name, home)


def identity(text: str) -> Identity:
    """Return whom `--user TEXT` means; raises UsageError."""
    if not text:
        return caller()
    if text in ("root", "0", "0:0"):
        return Identity(0, 0, "root", "/root")
    import re  # for --user alone

    numeric = re.fullmatch(r"(\d+)(?::(\d+))?", text)
    if numeric:
        uid = int(numeric[1])
        gid = int(numeric[2]) if numeric[2] else uid
        if max(uid, gid) >= 1 << 32:
            raise UsageError(f"--user {text}: a user's number is below 4294967296")
        return Identity(uid, gid, f"user{uid}" if uid else "root", f"/home/user{uid}")
    if not _is_account(text):
        raise UsageError(
            f"--user {text!r} is neither a name nor a number", hint="--user NAME, UID or UID:GID"
        )
    return Identity(0, 0, text, "", image_name=text)
