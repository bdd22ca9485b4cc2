"""What is left out of saved changes: caches, and what belongs to one machine alone.

A pattern is matched against a path without its leading slash; its `*` and `?` match slashes, too
(fnmatch(3) without FNM_PATHNAME). What matches is left out, and so is what lies below it. So
`tmp/*` empties /tmp and keeps the folder. Deletions below a pattern are left out as well.
"""

from __future__ import annotations

from apppot import config
from apppot.errors import UsageError
from apppot.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

# (what it is, its patterns). Folders that programs expect to find stay; see /var/log.
GROUPS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("temporary files", ("tmp/*", "var/tmp/*", "run/*", "var/run/*", "var/lock/*")),
    ("file systems of the kernel", ("dev/*", "proc/*", "sys/*")),
    (
        "lists and archives of package managers",
        (
            "var/lib/apt/lists/*",
            "var/cache/apt/*.bin",
            "var/cache/apt/archives/*.deb",
            "var/cache/apt/archives/lock",
            "var/cache/apt/archives/partial/*",
            "var/cache/apk/*",
            "var/cache/dnf/*",
            "var/cache/libdnf5/*",
            "var/cache/pacman/pkg/*",
            "var/cache/yum/*",
            "var/cache/zypp/*",
        ),
    ),
    (
        "copies and caches that programs make again",
        (
            "var/cache/debconf/*-old",
            "var/cache/fontconfig/*",
            "var/cache/ldconfig/*",
            "var/cache/man/*",
            "var/lib/dpkg/*-old",
            "var/lib/dpkg/lock",
            "var/lib/dpkg/lock-frontend",
            "etc/.pwd.lock",
            "etc/group-",
            "etc/gshadow-",
            "etc/ld.so.cache~",
            "etc/passwd-",
            "etc/shadow-",
            "root/.cache/pip/*",
            "root/.cache/fontconfig/*",
            "home/*/.cache/pip/*",
            "home/*/.cache/fontconfig/*",
        ),
    ),
    (
        "logs",
        (
            "var/log/*.gz",
            "var/log/*.log",
            "var/log/*.log.[0-9]*",
            "var/log/*.xz",
            "var/log/btmp*",
            "var/log/faillog",
            "var/log/journal/*",
            "var/log/lastlog",
            "var/log/messages*",
            "var/log/syslog*",
            "var/log/wtmp*",
        ),
    ),
    ("what shells remember", ("root/.*_history", "home/*/.*_history", "root/.lesshst")),
    (
        "identity of one machine",
        (
            "etc/machine-id",
            "etc/ssh/ssh_host_*",
            "var/lib/dbus/machine-id",
            "var/lib/dhcp/*",
            "var/lib/systemd/random-seed",
            "var/lib/urandom/*",
        ),
    ),
    (
        "what AppPot itself writes into each machine",
        ("etc/hostname", "etc/hosts", "etc/resolv.conf", "etc/sudoers.d/apppot"),
    ),
)
DEFAULTS: tuple[str, ...] = tuple(pattern for _, group in GROUPS for pattern in group)
LONGEST = 1000


def patterns(extra: Sequence[str] = (), *, defaults: bool = True) -> tuple[str, ...]:
    """Return all patterns: the built-in ones, the configuration's, and those of `--exclude`.

    Without `defaults` (`--no-default-excludes`) there are only those of `--exclude`. A pattern of
    the configuration that begins with `!` takes an equal one out. Raises UsageError.
    """
    return combine(DEFAULTS, configured(), extra) if defaults else combine(extra)


def combine(*lists: Iterable[str]) -> tuple[str, ...]:
    """Return the patterns of several lists, each once, in their order; raises UsageError."""
    found: dict[str, None] = {}
    for pattern in (word for words in lists for word in words):
        if pattern.startswith("!"):
            found.pop(_checked(pattern[1:]), None)
        else:
            found[_checked(pattern)] = None
    return tuple(found)


def _checked(pattern: str) -> str:
    """Return a pattern without its leading slash; raises UsageError if it can match nothing."""
    short = pattern.lstrip("/").removeprefix("./")
    if not short or "\0" in short or len(short) > LONGEST or ".." in short.split("/"):
        raise UsageError(
            f"--exclude {pattern!r} is not a pattern for a path",
            hint="patterns look like 'var/cache/*'; see 'apppot changes excludes'",
        )
    return short.rstrip("/") or short


def configured() -> tuple[str, ...]:
    """Return the patterns of `changes.exclude` in the configuration files; raises UsageError."""
    return config.texts("changes.exclude")
