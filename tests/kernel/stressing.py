"""Run groups of stress-ng's stressors in a guest; see what fails, and what is left afterwards."""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field

from apppot import kit

PR_SET_CHILD_SUBREAPER = 36
GROUPS = {
    "cpu": "--cpu 4",
    "vm": "--vm 4 --vm-bytes 512M",
    "fork": "--fork 3 --vfork 1 --clone 1",
    "futex": "--futex 4 --mutex 2",
    "signal": (
        "--kill 1 --sigabrt 1 --sigchld 1 --sigfd 1 --sigfpe 1 --sigio 1 --signal 1 --signest 1"
        " --sigpending 1 --sigpipe 1 --sigq 1 --sigrt 1 --sigsegv 1 --sigsuspend 1 --sigtrap 1"
    ),
    "pipe": "--pipe 2 --pipeherd 1 --fifo 2 --splice 1 --tee 1 --vm-splice 1",
    "mmap": (
        "--mmap 2 --mmap-bytes 128M --mmapaddr 1 --mmapfixed 1 --mmapfork 1 --mmapmany 1"
        " --mremap 1 --mprotect 1 --munmap 1 --msync 1"
    ),
    # All of the class but what needs a netlink family that this kernel has not, and resched, whose
    # processes count in one variable without locks: now and then it calls its own result corrupted.
    "scheduler": "--class scheduler --all 1 --exclude netlink-proc,netlink-task,resched",
}
BAD = re.compile(
    r"\bBUG\b|WARNING|Oops|[Pp]anic|lockup|stall|hung|Segfault|corrupt|leak|failed to wait for stub"
    r"|bad page|Bad page|Bad rss|scheduling while atomic"
)
PATIENCE = 10  # seconds that a machine's processes may take to end after it
HARMLESS = re.compile(r"setup_one_line|Kernel command line|panic=")
GUEST = """
stress-ng --timeout "$1" --verify --metrics-brief --temp-path /tmp $2 >"$3/stress" 2>&1
echo $? >"$3/status"
dmesg >"$3/dmesg"
ps -e -o pid,ppid,stat,comm >"$3/processes" 2>/dev/null
free -k >"$3/memory" 2>/dev/null
"""


@dataclass
class Seen:
    """What a machine took of the host while it ran."""

    processes: int = 0
    descriptors: list[int] = field(default_factory=list)  # of the guest's kernel


@dataclass(frozen=True)
class Outcome:
    """One group's run."""

    group: str
    seconds: float
    status: str
    failures: list[str]
    complaints: list[str]
    left: list[str]
    seen: Seen

    @property
    def good(self) -> bool:
        """Tell whether nothing is to be complained about."""
        return self.status == "0" and not self.complaints and not self.left


def main() -> int:
    """Run the groups one after the other; 1 if one of them failed."""
    options = _options()
    # What outlives the launcher becomes a child of ours, and is found.
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    outcomes = []
    for group in options.groups or GROUPS:
        with tempfile.TemporaryDirectory(prefix="stress-", dir="/var/tmp") as folder:
            outcomes.append(_run(group, folder, options))
        print(_row(outcomes[-1]), flush=True)
    for outcome in outcomes:
        for line in (*outcome.failures, *outcome.complaints, *outcome.left):
            print(f"{outcome.group}: {line}")
    return 0 if all(outcome.good for outcome in outcomes) else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/kernel/stress", description=__doc__)
    parser.add_argument("groups", nargs="*", metavar="GROUP", help=" ".join(GROUPS))
    parser.add_argument("--image", required=True, help="an image with stress-ng and procps")
    parser.add_argument("--seconds", type=int, default=120, help="for each group (120)")
    parser.add_argument("--cpus", default="2", help="virtual CPUs (2)")
    parser.add_argument("--memory", default="2G", help="the guest's memory (2G)")
    parser.add_argument("--uml-mode", help="as of 'apppot run'")
    options = parser.parse_args()
    unknown = set(options.groups) - set(GROUPS)
    if unknown:
        parser.error(f"there is no group {', '.join(sorted(unknown))}")
    return options


def _run(group: str, folder: str, options: argparse.Namespace) -> Outcome:
    """Run one group in a machine of its own; `folder` is all that it may leave files in."""
    out, own = os.path.join(folder, "out"), os.path.join(folder, "own")
    os.mkdir(out)
    os.mkdir(own, mode=0o700)
    command = [
        *(sys.executable, "-m", "apppot", "run", "--network", "none", "--no-job-dir"),
        *("--cpus", options.cpus, "--memory", options.memory, "--workdir", "/"),
        *(("--uml-mode", options.uml_mode) if options.uml_mode else ()),
        *(f"--bind={out}:/out", options.image, "--", "sh", "-c", GUEST, "stress"),
        *(f"{options.seconds}s", GROUPS[group], "/out"),
    ]
    environment = {
        **os.environ,
        "XDG_RUNTIME_DIR": own,
        "TMPDIR": own,
        "APPPOT_KIT": kit.find().path,
    }
    seen = Seen()
    before, began = _shared_memory(), time.monotonic()
    machine = subprocess.Popen(command, env=environment, cwd=folder, stdin=subprocess.DEVNULL)
    while machine.poll() is None:
        _look(seen)
        if time.monotonic() - began > 4 * options.seconds + 60:
            machine.terminate()
            time.sleep(30)
            machine.kill()
        time.sleep(2)
    seconds = time.monotonic() - began
    status = _read(out, "status").strip() or f"hung or died: {machine.returncode}"
    failures = [
        line for line in _read(out, "stress").splitlines() if "fail:" in line or "smash" in line
    ]
    complaints = [
        line
        for line in _read(out, "dmesg").splitlines()
        if BAD.search(line) and not HARMLESS.search(line)
    ]
    time.sleep(1)
    left = [f"process left: {line}" for line in _orphans()]
    left += [f"file left: {name}" for _, _, names in os.walk(own) for name in names]
    grown = _shared_memory() - before
    if grown > 256 * 1024:  # other machines may run on this computer
        left.append(f"{grown // 1024} MB of shared memory more than before")
    return Outcome(group, seconds, status, failures, complaints, left, seen)


def _read(folder: str, name: str) -> str:
    try:
        with open(os.path.join(folder, name), encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:
        return ""


def _shared_memory() -> int:
    """Return the host's shared memory in kB: guests' memory is of that kind."""
    with open("/proc/meminfo", encoding="ascii") as stream:
        found = re.search(r"^Shmem:\s+(\d+)", stream.read(), re.MULTILINE)
    return int(found[1]) if found else 0


def _parents() -> dict[int, tuple[int, str]]:
    """Return each process's parent and name."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            match = re.match(r"\d+ \((.*)\) \S (\d+)", _read(f"/proc/{name}", "stat"), re.DOTALL)
            if match:
                found[int(name)] = (int(match[2]), match[1])
    return found


def _descendants(parents: dict[int, tuple[int, str]]) -> set[int]:
    below = {os.getpid()}
    while True:
        more = {pid for pid, (parent, _) in parents.items() if parent in below} - below
        if not more:
            return below - {os.getpid()}
        below |= more


def _look(seen: Seen) -> None:
    """Count the machine's processes, and the descriptors of the one that has most."""
    below = _descendants(_parents())
    seen.processes = max(seen.processes, len(below))
    counts = [0]
    for pid in below:
        try:
            counts.append(len(os.listdir(f"/proc/{pid}/fd")))
        except OSError:
            continue
    seen.descriptors.append(max(counts))


def _orphans() -> list[str]:
    """Return the processes that are left, and end them.

    Stubs end after their kernel, and then wait for us as they would for init.
    """
    until = time.monotonic() + PATIENCE
    while True:
        with contextlib.suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        left = _descendants(_parents())
        if not left or time.monotonic() > until:
            break
        time.sleep(0.2)
    found = []
    for pid in left:
        stat = _read(f"/proc/{pid}", "stat").split()
        found.append(f"{' '.join(stat[:4])}, waits in {_read(f'/proc/{pid}', 'wchan')}")
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    return found


def _row(each: Outcome) -> str:
    fds = each.seen.descriptors[1:-1] or [0]
    return (
        f"| {each.group} | {each.seconds:.0f} s | {each.status} | {len(each.failures)} "
        f"| {len(each.complaints)} | {len(each.left)} | {each.seen.processes} "
        f"| {fds[0]} to {max(fds)}, {fds[-1]} at the end |"
    )


if __name__ == "__main__":
    sys.exit(main())
