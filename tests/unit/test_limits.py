"""Sizes, durations, and limits read from laid-out systems."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apppot.errors import MachineError, UsageError
from apppot.machine import limits
from apppot.machine.limits import GIB, MIB, Limit

if TYPE_CHECKING:
    from pathlib import Path

V2_MOUNTS = "31 23 0:28 / /sys/fs/cgroup rw,relatime shared:4 - cgroup2 cgroup2 rw\n"


def lay_out(root: Path, files: dict[str, str]) -> str:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


def v2(root: Path, own: str, groups: dict[str, str], available_kib: int = 16 << 20) -> str:
    return lay_out(
        root,
        {
            "proc/self/cgroup": f"0::{own}\n",
            "proc/self/mountinfo": V2_MOUNTS,
            "proc/meminfo": f"MemTotal: 99999999 kB\nMemAvailable:   {available_kib} kB\n",
            **{f"sys/fs/cgroup/{name}": text for name, text in groups.items()},
        },
    )


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("0", 0),
        ("4096", 4096),
        ("7b", 7),
        ("1k", 1024),
        ("512M", 512 * MIB),
        ("512MiB", 512 * MIB),
        ("512mb", 512 * MIB),
        ("1.5G", 3 * GIB // 2),
        ("2TiB", 2 << 40),
    ],
)
def test_size(text: str, size: int) -> None:
    assert limits.parse_size(text) == size


@pytest.mark.parametrize(
    "text",
    ["", " ", "M", "-1", "+1", "1 M", " 1M", "1M\n", "1.5", "1.5B", ".5G", "1e3", "0x10", "1Mi",
     "1iB", "1P", "1MM", "٣M", "1K\u212a", "1\u212a", "1_000", "9" * 40, "99999999T", "auto"],
)  # fmt: skip
def test_bad_size(text: str) -> None:
    with pytest.raises(UsageError):
        limits.parse_size(text)


@given(st.integers(0, 1 << 62))
def test_size_round_trip(size: int) -> None:
    assert limits.parse_size(limits.format_size(size)) == size


@given(st.text(max_size=12) | st.text("0123456789.kKmMgGtTiIbB", max_size=12))
def test_size_never_fails_otherwise(text: str) -> None:
    try:
        size = limits.parse_size(text)
    except UsageError:
        return
    assert 0 <= size <= 1 << 62
    assert text[0] in "0123456789"


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("90", 90),
        ("0.5", 0.5),
        ("90s", 90),
        ("1.5s", 1.5),
        ("1h30m", 5400),
        ("2D", 172800),
        ("1d1h1m1s", 90061),
        ("90m", 5400),
        ("10:00", 600),
        ("90:00", 5400),
        ("00:10:00", 600),
        ("100:00:00", 360000),
        ("2-03:00:00", 183600),
        ("2-03:30", 185400),
        ("2-03", 183600),
        ("0-00:00:01", 1),
    ],
)
def test_duration(text: str, seconds: float) -> None:
    assert limits.parse_duration(text) == seconds


@pytest.mark.parametrize(
    "text",
    ["", "m", "h1", "1m1h", "1h1h", "-5", "+5", "1:60", "1:60:00", "1-24", "1-24:00:00", "1:2:3:4",
     "1-", "-1:00", "1.5h", "5 s", " 5", "5\n", "inf", "nan", "1e3", "UNLIMITED", "٣", "1::2"],
)  # fmt: skip
def test_bad_duration(text: str) -> None:
    with pytest.raises(UsageError):
        limits.parse_duration(text)


@given(st.integers(0, 9999), st.integers(0, 23), st.integers(0, 59), st.integers(0, 59))
def test_all_forms_of_a_duration_agree(days: int, hours: int, minutes: int, seconds: int) -> None:
    total = days * 86400 + hours * 3600 + minutes * 60 + seconds
    assert limits.parse_duration(f"{days}-{hours:02}:{minutes:02}:{seconds:02}") == total
    assert limits.parse_duration(f"{days}d{hours}h{minutes}m{seconds}s") == total
    assert limits.parse_duration(f"{days * 24 + hours}:{minutes:02}:{seconds:02}") == total
    assert limits.parse_duration(str(total)) == total


@given(st.text(max_size=12) | st.text("0123456789.:-dhms", max_size=14))
def test_duration_never_fails_otherwise(text: str) -> None:
    try:
        seconds = limits.parse_duration(text)
    except UsageError:
        return
    assert 0 <= seconds < float("inf")


def test_no_limit_is_the_free_memory(tmp_path: Path) -> None:
    root = v2(tmp_path, "/", {"memory.max": "max\n"}, available_kib=8 << 20)
    limit = limits.memory_limit(root=root, environ={})
    assert limit == Limit(8 * GIB, "free memory of this computer", fenced=False)


def test_an_outer_group_counts(tmp_path: Path) -> None:
    groups = {"a/b/memory.max": "max\n", "a/memory.max": f"{2 * GIB}\n"}
    limit = limits.memory_limit(root=v2(tmp_path, "/a/b", groups), environ={})
    assert limit.bytes == 2 * GIB
    assert limit.fenced
    assert limit.source.startswith(f"{tmp_path}/sys/fs/cgroup/a/memory.max")


def test_the_soft_limit_of_version_2_counts(tmp_path: Path) -> None:
    groups = {"a/memory.max": f"{2 * GIB}\n", "a/memory.high": f"{GIB}\n"}
    limit = limits.memory_limit(root=v2(tmp_path, "/a", groups), environ={})
    assert limit.bytes == GIB


def test_what_the_job_uses_already_is_deducted_and_cache_is_not(tmp_path: Path) -> None:
    groups = {
        "job/memory.max": f"{4 * GIB}\n",
        "job/memory.current": f"{3 * GIB}\n",
        "job/memory.stat": f"anon 1\nfile {2 * GIB}\nshmem {GIB // 2}\n",
    }
    limit = limits.memory_limit(root=v2(tmp_path, "/job", groups), environ={})
    assert limit.bytes == 4 * GIB - (3 * GIB - 3 * GIB // 2)


def test_version_1_with_a_mounted_part(tmp_path: Path) -> None:
    """Inside a container without a namespace of groups: the mount shows a part of the tree."""
    root = lay_out(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/docker/abc/job\n1:cpu,cpuacct:/elsewhere\n0::/\n",
            "proc/self/mountinfo": (
                "35 31 0:32 /docker/abc /sys/fs/cgroup/my\\040memory rw - cgroup cgroup rw,memory\n"
                "36 31 0:33 /docker/abc /sys/fs/cgroup/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
            ),
            "proc/meminfo": "MemAvailable: 99999999 kB\n",
            "sys/fs/cgroup/my memory/job/memory.limit_in_bytes": f"{GIB}\n",
            "sys/fs/cgroup/my memory/memory.limit_in_bytes": "9223372036854771712\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "150000\n",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        },
    )
    limit = limits.memory_limit(root=root, environ={})
    assert limit.bytes == GIB
    assert "my memory/job" in limit.source
    assert limits.cpu_quota(root=root) == (1.5, f"{tmp_path}/sys/fs/cgroup/cpu/cpu.cfs_quota_us")


def test_the_tightest_cpu_quota_of_all_levels(tmp_path: Path) -> None:
    groups = {"a/b/cpu.max": "max 100000\n", "a/cpu.max": "50000 100000\n", "cpu.max": "9 0\n"}
    root = v2(tmp_path, "/a/b", groups)
    assert limits.cpu_quota(root=root) == (0.5, f"{tmp_path}/sys/fs/cgroup/a/cpu.max")


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"SLURM_MEM_PER_NODE": "2048"}, 2 * GIB),
        ({"SLURM_MEM_PER_CPU": "512", "SLURM_CPUS_ON_NODE": "3"}, 1536 * MIB),
        ({"SLURM_MEM_PER_CPU": "512"}, 16 * GIB),
        ({"SLURM_MEM_PER_NODE": "0"}, 16 * GIB),
        ({"SLURM_MEM_PER_NODE": "many"}, 16 * GIB),
    ],
)
def test_slurm(tmp_path: Path, variables: dict[str, str], expected: int) -> None:
    root = v2(tmp_path, "/", {})
    environ = {"SLURM_JOB_ID": "7", **variables}
    assert limits.memory_limit(root=root, environ=environ).bytes == expected
    assert limits.memory_limit(root=root, environ=variables).bytes == 16 * GIB


def test_htcondor(tmp_path: Path) -> None:
    root = v2(tmp_path, "/", {})
    lay_out(tmp_path, {"scratch/.machine.ad": "Disk = 5\nMemory = 300\nCpus = 1\n"})
    environ = {"_CONDOR_MACHINE_AD": "/scratch/.machine.ad"}
    assert limits.memory_limit(root=root, environ=environ).bytes == 300 * MIB


def test_an_empty_system_still_has_a_limit(tmp_path: Path) -> None:
    limit = limits.memory_limit(root=str(tmp_path), environ={})
    assert limit.bytes > MIB
    assert limits.cpu_quota(root=str(tmp_path)) is None


@pytest.mark.parametrize(("kind", "option"), [("RLIMIT_AS", "-v"), ("RLIMIT_FSIZE", "-f")])
def test_ulimit(kind: str, option: str) -> None:
    code = (
        "from apppot.machine import limits\n"
        "l = limits.memory_limit(environ={})\n"
        "print(l.bytes, l.source, l.fenced)"
    )

    def limited() -> None:
        resource.setrlimit(getattr(resource, kind), (700 * MIB, 700 * MIB))

    done = subprocess.run(
        [sys.executable, "-c", code], preexec_fn=limited, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"{700 * MIB} ulimit {option} True\n"


@given(st.integers(0, 1 << 50), st.booleans())
def test_auto_memory_fits_or_says_why(size: int, fenced: bool) -> None:
    limit = Limit(size, "the fence", fenced)
    if size < 90 * MIB:
        with pytest.raises(MachineError, match="the fence"):
            limits.auto_memory(limit)
        return
    if size < 230 * MIB:
        return  # the border depends on `fenced`: see the next test
    memory = limits.auto_memory(limit)
    assert memory >= limits.MINIMUM_MEMORY
    assert memory % MIB == 0
    assert memory + 40 * MIB <= size
    if not fenced:
        assert memory <= size // 2


def test_the_needed_amount_in_the_message_suffices() -> None:
    for fenced in (True, False):
        needed = limits._needed(Limit(0, "", fenced))
        assert limits.auto_memory(Limit(needed, "", fenced)) == limits.MINIMUM_MEMORY


def test_allowed_cpus_follow_the_affinity() -> None:
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {max(before)})
        assert limits.allowed_cpus() == (max(before),)
    finally:
        os.sched_setaffinity(0, before)
    assert limits.allowed_cpus() == tuple(sorted(before))
