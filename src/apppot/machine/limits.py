"""Sizes and durations as users write them, and how much memory and how many CPUs a run may use.

On the way to `apppot run`: nothing here is slow to import or to call. Functions that read the
system take `root`, so that a test can lay out a system of its own.
"""

from __future__ import annotations

import os
import re

from apppot.errors import MachineError, UsageError
from apppot.lean import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

KIB, MIB, GIB, TIB = 1 << 10, 1 << 20, 1 << 30, 1 << 40
MINIMUM_MEMORY = 64 * MIB
_UNITS = {"": 1, "k": KIB, "m": MIB, "g": GIB, "t": TIB}
# Patterns stay texts until they are used: compiling them costs 3 ms, and most runs need none.
_SIZE = r"([0-9]{1,19})(?:\.([0-9]{1,9}))?(?:([kmgtKMGT])(?:[iI]?[bB])?|[bB])?"
_UNIT_DURATION = (
    r"(?:([0-9]{1,9})[dD])?(?:([0-9]{1,9})[hH])?(?:([0-9]{1,9})[mM])?"
    r"(?:([0-9]{1,9}(?:\.[0-9]{1,9})?)[sS])?"
)
_PLAIN_DURATION = r"[0-9]{1,9}(?:\.[0-9]{1,9})?"
_CLOCK_DURATION = r"(?:([0-9]{1,9})-)?([0-9]{1,9}(?::[0-9]{1,2}){0,2})"
_LARGEST_SIZE = 1 << 62
# What the kernel shows for "no limit" depends on its page size; nobody has an exbibyte.
_UNLIMITED = 1 << 60


@dataclass(frozen=True)
class Limit:
    """How many bytes may be used, and who says so; `fenced`: going over it is punished."""

    bytes: int
    source: str
    fenced: bool = True


def parse_size(text: str) -> int:
    """Return the number of bytes that `text` means: `512M`, `1.5GiB`, `2tb`, `4096`.

    Units are powers of 1024. Raises UsageError for everything else.
    """
    match = re.fullmatch(_SIZE, text)
    if match is None or (match[2] is not None and match[3] is None):
        raise UsageError(
            f"'{text}' is not a size", hint="write a number and K, M, G or T, such as 512M or 1.5G"
        )
    factor = _UNITS[(match[3] or "").lower()]
    size = int(match[1]) * factor
    if match[2] is not None:
        size += int(match[2]) * factor // 10 ** len(match[2])
    if size > _LARGEST_SIZE:
        raise UsageError(f"the size '{text}' is larger than any computer")
    return size


def format_size(size: int) -> str:
    """Return `size` in the largest unit that keeps it exact; `parse_size` reads it back."""
    for unit, factor in (("T", TIB), ("G", GIB), ("M", MIB), ("K", KIB)):
        if size and size % factor == 0:
            return f"{size // factor}{unit}"
    return str(size)


def show_size(size: int) -> str:
    """Return `size` for people, rounded to about three digits."""
    for unit, factor in (("T", TIB), ("G", GIB), ("M", MIB), ("K", KIB)):
        if size >= factor:
            value = size / factor
            return f"{value:.0f}{unit}" if value >= 100 else f"{value:.3g}{unit}"  # noqa: PLR2004
    return str(size)


def parse_duration(text: str) -> float:
    """Return the seconds that `text` means.

    Forms: seconds (`90`, `0.5`), units (`1h30m`, `2d`, `90s`), and Slurm's clock forms
    (`MM:SS`, `HH:MM:SS`, `D-HH`, `D-HH:MM`, `D-HH:MM:SS`). Raises UsageError for everything else.
    """
    seconds = _seconds(text)
    if seconds is None:
        raise UsageError(
            f"'{text}' is not a duration",
            hint="write seconds (90), units (1h30m) or a clock time (00:10:00, 2-03:00:00)",
        )
    return seconds


def _seconds(text: str) -> float | None:
    if re.fullmatch(_PLAIN_DURATION, text):
        return float(text)
    if text and (match := re.fullmatch(_UNIT_DURATION, text)):
        parts = (float(part or 0) for part in match.groups())
        return sum(n * unit for n, unit in zip(parts, (86400, 3600, 60, 1), strict=True))
    match = re.fullmatch(_CLOCK_DURATION, text)
    if match is None:
        return None
    fields = [int(field) for field in match[2].split(":")]
    if any(field > 59 for field in fields[1:]):  # noqa: PLR2004  minutes and seconds
        return None
    if match[1] is None:  # the last field is seconds
        fields = [0] * (3 - len(fields)) + fields
        days = 0
    else:  # the first field is hours
        fields += [0] * (3 - len(fields))
        days = int(match[1])
        if fields[0] > 23:  # noqa: PLR2004  hours beside days
            return None
    return float(days * 86400 + fields[0] * 3600 + fields[1] * 60 + fields[2])


def allowed_cpus() -> tuple[int, ...]:
    """Return the numbers of the CPUs that this process may run on, in order."""
    return tuple(sorted(os.sched_getaffinity(0)))


def memory_limit(*, root: str = "/", environ: Mapping[str, str] | None = None) -> Limit:
    """Return the tightest limit on the memory that this process and its children may use."""
    return min(memory_limits(root=root, environ=environ), key=lambda limit: limit.bytes)


def memory_limits(*, root: str = "/", environ: Mapping[str, str] | None = None) -> list[Limit]:
    """Return every limit on memory that can be seen; the free memory of the host is always one."""
    found = [
        *_cgroup_memory(root),
        *_scheduler_memory(root, os.environ if environ is None else environ),
        *_ulimit_memory(),
    ]
    available = _available_memory(root)
    return [*found, Limit(available, "free memory of this computer", fenced=False)]


def auto_memory(limit: Limit) -> int:
    """Return the guest memory for `--memory auto` under `limit`, in whole MiB.

    The host's side of a machine (launcher, passt, kernel text, tables of mappings) is deducted.
    Free memory of a computer that nobody has fenced off is shared with others: half of it is used.
    Raises MachineError if less than 64M is left.
    """
    room = limit.bytes if limit.fenced else limit.bytes // 2
    memory = (room - memory_overhead(room)) // MIB * MIB
    if memory < MINIMUM_MEMORY:
        raise MachineError(
            f"too little memory for a machine: {limit.source} leaves {show_size(limit.bytes)}, "
            f"and 64M of guest memory need {show_size(_needed(limit))}",
            hint="ask the scheduler for more memory, or run on a computer with more of it",
        )
    return memory


def memory_overhead(room: int) -> int:
    """Return what a machine needs on the host beside its guest memory, rounded up.

    Measured in a control group: launcher 14 MB, passt 12 MB, kernel text 10 MB; and 48 MB of page
    tables and mapping records when four processes touch 914 MB in no order.
    """
    return 40 * MIB + room // 20


def _needed(limit: Limit) -> int:
    least = (MINIMUM_MEMORY + memory_overhead(0)) * 20 // 19 + MIB
    return least if limit.fenced else 2 * least


def cpu_quota(*, root: str = "/") -> tuple[float, str] | None:
    """Return how many CPUs' worth of time the control groups allow, and which file says so."""
    tightest: tuple[float, str] | None = None
    for version, folder in cgroup_folders("cpu", root=root):
        if version == 2:  # noqa: PLR2004
            words = _read(f"{folder}/cpu.max").split()
            path = f"{folder}/cpu.max"
        else:
            words = [_read(f"{folder}/cpu.cfs_quota_us"), _read(f"{folder}/cpu.cfs_period_us")]
            path = f"{folder}/cpu.cfs_quota_us"
        if len(words) != 2 or not all(word.isdecimal() for word in words) or int(words[1]) == 0:  # noqa: PLR2004
            continue  # "max", -1, or no such file
        quota = int(words[0]) / int(words[1])
        if tightest is None or quota < tightest[0]:
            tightest = (quota, path)
    return tightest


def cgroup_folders(controller: str, *, root: str = "/") -> Iterator[tuple[int, str]]:
    """Yield (version, folder) of this process's control groups, the innermost first, to the root.

    The folder begins with `root`. Inside a container the path in /proc/self/cgroup may not be
    below the mounted hierarchy; then the mount itself stands for the group.
    """
    own = _own_cgroups(root)
    for line in _read(os.path.join(root, "proc/self/mountinfo")).splitlines():
        fields, _, rest = line.partition(" - ")
        words, kind = fields.split(), rest.split()
        if len(words) < 5 or len(kind) < 3:  # noqa: PLR2004
            continue
        if kind[0] == "cgroup2":
            version, path = 2, own.get("")
        elif kind[0] == "cgroup" and controller in kind[2].split(","):
            version, path = 1, own.get(controller)
        else:
            continue
        if path is not None:
            mount_root, mount_point = _unescape(words[3]), _unescape(words[4])
            for folder in _upwards(mount_point, _below(path, mount_root)):
                yield version, os.path.join(root, folder.lstrip("/"))


def _own_cgroups(root: str) -> dict[str, str]:
    """Return controller -> path from /proc/self/cgroup; version 2 has the empty name."""
    own = {}
    for line in _read(os.path.join(root, "proc/self/cgroup")).splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0":
            own[""] = path
        for name in controllers.split(","):
            if name:
                own[name] = path
    return own


def _below(path: str, mount_root: str) -> str:
    """Return `path` relative to what is mounted; "" if it lies elsewhere."""
    prefix = "" if mount_root == "/" else mount_root
    if ".." in path.split("/") or not (path == mount_root or path.startswith(f"{prefix}/")):
        return ""
    return path[len(prefix) :].strip("/")


def _upwards(mount_point: str, relative: str) -> Iterator[str]:
    parts = relative.split("/") if relative else []
    for depth in range(len(parts), -1, -1):
        yield "/".join((mount_point.rstrip("/"), *parts[:depth]))


def _unescape(word: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), word)


def _cgroup_memory(root: str) -> Iterator[Limit]:
    names: tuple[str, ...]
    for version, folder in cgroup_folders("memory", root=root):
        if version == 2:  # noqa: PLR2004
            names, usage, held = ("memory.max", "memory.high"), "memory.current", ("file", "shmem")
        else:
            names = ("memory.limit_in_bytes",)
            usage, held = "memory.usage_in_bytes", ("total_cache", "total_shmem")
        for name in names:
            text = _read(f"{folder}/{name}")
            if not text.isdecimal() or int(text) >= _UNLIMITED:
                continue
            taken = _taken(folder, usage, held)
            source = f"{folder}/{name} ({show_size(int(text))}, {show_size(taken)} of it in use)"
            yield Limit(max(0, int(text) - taken), source)


def _taken(folder: str, usage: str, held: tuple[str, str]) -> int:
    """Return what a group's processes use and the kernel cannot take back from them."""
    used = _read(f"{folder}/{usage}")
    if not used.isdecimal():
        return 0
    lines = _read(f"{folder}/memory.stat").splitlines()
    stat = {key: value for key, _, value in (line.partition(" ") for line in lines)}
    cache, shared = (int(stat[key]) if stat.get(key, "").isdecimal() else 0 for key in held)
    return max(0, int(used) - max(0, cache - shared))


def _scheduler_memory(root: str, environ: Mapping[str, str]) -> Iterator[Limit]:
    if environ.get("SLURM_JOB_ID"):
        node = _positive(environ.get("SLURM_MEM_PER_NODE", ""))
        if node:
            yield Limit(node * MIB, "SLURM_MEM_PER_NODE")
        cpu = _positive(environ.get("SLURM_MEM_PER_CPU", ""))
        cpus = _positive(environ.get("SLURM_CPUS_ON_NODE", ""))
        if cpu and cpus:
            yield Limit(cpu * cpus * MIB, "SLURM_MEM_PER_CPU times SLURM_CPUS_ON_NODE")
    advertisement = environ.get("_CONDOR_MACHINE_AD", "")
    if advertisement:
        text = _read(os.path.join(root, advertisement.lstrip("/")))
        match = re.search(r"^Memory\s*=\s*([0-9]{1,12})\s*$", text, re.MULTILINE)
        if match and int(match[1]):
            yield Limit(int(match[1]) * MIB, "Memory in HTCondor's machine advertisement")


def _positive(text: str) -> int:
    """Return the number in `text`, 0 if there is none (and Slurm's 0 means no limit)."""
    return int(text) if text.isdecimal() and text.isascii() and len(text) < 16 else 0  # noqa: PLR2004


def _ulimit_memory() -> Iterator[Limit]:
    import resource  # for --memory auto alone

    # The guest's memory is a file without a name (-f), mapped shared by the kernel process: it
    # counts as address space (-v), not as data (-d); Linux does not enforce -m.
    for number, option in ((resource.RLIMIT_AS, "-v"), (resource.RLIMIT_FSIZE, "-f")):
        soft, _ = resource.getrlimit(number)
        if soft != resource.RLIM_INFINITY:
            yield Limit(soft, f"ulimit {option}")


def _available_memory(root: str) -> int:
    for line in _read(os.path.join(root, "proc/meminfo")).splitlines():
        words = line.split()
        if words and words[0] == "MemAvailable:" and words[1].isdecimal():
            return int(words[1]) * KIB
    pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return pages * size


def _read(path: str) -> str:
    """Return a small system file's text without its last newline; "" if it cannot be read."""
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read().strip()
    except OSError:
        return ""
