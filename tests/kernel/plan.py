"""Which of the kernel's selftests are run, how, and which are not, with the reason."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Collection:
    """A folder of tools/testing/selftests: all of its programs are run but those in `left_out`."""

    folder: str
    left_out: dict[str, str] = field(default_factory=dict)  # program -> why
    commands: dict[str, str] = field(default_factory=dict)  # name -> command instead of ./NAME
    ordinary: bool = False  # run by a user without rights, as root would change the computer


HELPER = "no test but a part of others"
HUGE = "of huge pages that are reserved, which this kernel has none of: changes the computer"
CHANGES = "changes settings of the whole computer"
CLOCK = "sets the computer's clock"
NO_REGISTRATION = "GLIBC_TUNABLES=glibc.pthread.rseq=0 "

COLLECTIONS = (
    Collection(
        "mm",
        ordinary=True,
        left_out={
            "compaction_test": CHANGES,
            "gup_test": "needs a kernel that is made for it (CONFIG_GUP_TEST)",
            "hmm-tests": "needs a kernel module that is made for it",
            "hugetlb-madvise": HUGE,
            "hugetlb-mmap": HUGE,
            "hugetlb-mremap": HUGE,
            "hugetlb-read-hwpoison": HUGE,
            "hugetlb-shm": HUGE,
            "hugetlb-soft-offline": HUGE,
            "hugetlb_dio": HUGE,
            "hugetlb_fault_after_madv": HUGE,
            "hugetlb_madv_vs_map": HUGE,
            "khugepaged": CHANGES,
            "ksm_tests": CHANGES,
            "memory-failure": "takes pages of memory out of use",
            "migration": "of several NUMA nodes",
            "split_huge_page_test": CHANGES,
            "thuge-gen": HUGE,
            "transhuge-stress": "a measurement",
            "uffd-stress": "replaced by commands with arguments",
            "write_to_hugetlbfs": HUGE,
        },
        commands={
            "uffd-stress-anon": "./uffd-stress anon 20 16",
            "uffd-stress-shmem": "./uffd-stress shmem 20 16",
        },
    ),
    Collection("futex/functional"),
    Collection("signal"),
    Collection(
        "timers",
        left_out={
            **dict.fromkeys(
                (
                    *("adjtick", "change_skew", "clocksource-switch", "freq-step", "leap-a-day"),
                    *("leapcrash", "set-2038", "set-tai", "set-tz", "skew_consistency"),
                    *("valid-adjtimex",),
                ),
                CLOCK,
            ),
            "alarmtimer-suspend": "sends the computer to sleep",
        },
    ),
    Collection("clone3"),
    Collection("pidfd", left_out={"pidfd_exec_helper": HELPER}),
    Collection("pipe", commands={"pipe_bench": "./pipe_bench"}),
    Collection(
        "mqueue",
        left_out={"mq_perf_tests": "a measurement, which leaves settings changed if it is stopped"},
        commands={"mq_open_tests": "./mq_open_tests /selftest"},
    ),
    Collection("seccomp"),
    Collection("membarrier"),
    Collection(
        "rseq",
        left_out={
            "librseq.so": HELPER,
            "param_test": "replaced by commands with arguments",
            "param_test_benchmark": "a measurement",
            "param_test_compare_twice": "replaced by commands with arguments",
            "param_test_mm_cid": "replaced by commands with arguments",
            "param_test_mm_cid_benchmark": "a measurement",
            "param_test_mm_cid_compare_twice": "replaced by commands with arguments",
        },
        commands={
            "syscall_errors_test": f"{NO_REGISTRATION}./syscall_errors_test",
            "legacy_check": f"{NO_REGISTRATION}./legacy_check",
            **{
                f"{name}-{kind}": f"{NO_REGISTRATION}./{name} -T {kind} -r 200 -t 12"
                for name in ("param_test", "param_test_compare_twice", "param_test_mm_cid")
                for kind in "slbmir"
            },
        },
    ),
)


def commands(collection: Collection, programs: list[str]) -> dict[str, str]:
    """Return the shell command of each test to run, by name."""
    found = {
        name: f"./{name}"
        for name in sorted(programs)
        if name not in collection.left_out and name not in collection.commands
    }
    return found | collection.commands
