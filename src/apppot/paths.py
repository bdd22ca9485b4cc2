"""Every decision about a folder: where AppPot looks, and where it writes."""

from __future__ import annotations

import os
import stat

from apppot import config
from apppot.errors import AppPotError, UsageError

SYSTEM_DATA = ("/usr/local/lib/apppot", "/usr/lib/apppot")
SITE_CONFIG = "/etc/apppot/config.toml"


def _home(variable: str, fallback: str) -> str:
    """Return an XDG base folder (XDG Base Directory Specification 0.8)."""
    value = os.environ.get(variable, "")
    if value.startswith("/"):  # the specification: relative values are to be ignored
        return value
    return os.path.join(os.path.expanduser("~"), fallback)


def cache_dir() -> str:
    """Return the folder for what can be made again: sources, builds, probe results."""
    return config.path("cache.folder") or os.path.join(_home("XDG_CACHE_HOME", ".cache"), "apppot")


def data_dir() -> str:
    """Return the folder for what the user would miss."""
    return os.path.join(_home("XDG_DATA_HOME", ".local/share"), "apppot")


def user_config() -> str:
    """Return the path of the user's configuration file."""
    return os.path.join(_home("XDG_CONFIG_HOME", ".config"), "apppot", "config.toml")


def store_dir() -> str:
    """Return the store that is written to: the setting `store`, else in the user's data folder."""
    return config.path("store") or os.path.join(data_dir(), "store")


def store_dirs() -> tuple[str, ...]:
    """Return the stores to search: the one that is written to, the setting `stores`, the site's."""
    system = (os.path.join(base, "store") for base in SYSTEM_DATA)
    return (store_dir(), *config.path_list("stores"), *system)


def kit_dirs() -> tuple[str, ...]:
    """Return where a kit may lie, in order; the setting `kit` alone if it is there."""
    named = config.path("kit")
    if named:
        return (named,)
    return (
        os.path.join(cache_dir(), "kit"),
        *(os.path.join(base, "kit") for base in SYSTEM_DATA),
    )


def scratch_dir() -> str:
    """Return the folder for a run's big throw-away files, the scheduler's own first."""
    try:
        first = config.path("scratch.folder")
    except UsageError:  # such as /local/$SLURM_JOB_ID outside of jobs
        first = ""
    others = (os.environ.get(v, "") for v in ("_CONDOR_SCRATCH_DIR", "SLURM_TMPDIR", "TMPDIR"))
    for value in (first, *others):
        if value and os.path.isdir(value) and os.access(value, os.W_OK | os.X_OK):
            return os.path.abspath(value)
    return "/tmp"  # noqa: S108  the last resort, and always unlinked files


def runtime_dir() -> str:
    """Return the folder of running machines, made with mode 0700; on a disk of this host.

    Raises AppPotError if no candidate is usable.
    """
    uid = os.getuid()
    candidates = [
        config.path("runtime.folder"),
        os.path.join(os.environ["XDG_RUNTIME_DIR"], "apppot")
        if os.environ.get("XDG_RUNTIME_DIR")
        else "",
        f"/tmp/apppot-{uid}",  # noqa: S108  ownership and mode are checked below
        os.path.join(scratch_dir(), f"apppot-{uid}"),
    ]
    problems = []
    for path in candidates:
        if not path:
            continue
        problem = _private_dir(path, uid)
        if not problem:
            return path
        problems.append(f"{path}: {problem}")
    raise AppPotError(
        "no folder for running machines: " + "; ".join(problems),
        hint="set APPPOT_RUNTIME_DIR to a folder of yours on a local disk",
    )


def _private_dir(path: str, uid: int) -> str:
    """Make `path` as a folder that only `uid` can enter; return what is wrong with it, or ''."""
    try:
        os.makedirs(path, mode=0o700, exist_ok=True)
        found = os.lstat(path)
    except OSError as error:
        return os.strerror(error.errno or 0)
    if not stat.S_ISDIR(found.st_mode):
        return "not a folder"
    if found.st_uid != uid:
        return f"belongs to user {found.st_uid}"
    if stat.S_IMODE(found.st_mode) & 0o077:
        return "other users can enter it"
    if not os.access(path, os.W_OK | os.X_OK):
        return "not writable"
    return ""


def recipes_dir() -> str:
    """Return the folder that holds `kit/` and `guest/`: the checkout's, or the wheel's copy.

    Raises AppPotError if neither is there.
    """
    here = os.path.dirname(os.path.abspath(__file__))
    for base in (os.path.join(here, "_recipes"), os.path.dirname(os.path.dirname(here))):
        if os.path.isfile(os.path.join(base, "kit", "kernel", "config")):
            return base
    raise AppPotError(
        "the kit's recipes are missing from this installation",
        hint="install apppot from a checkout or from its wheel",
    )
