"""Memory of idle machines: proportional shares of their processes, and what the host has left."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import tempfile
import time
from typing import TYPE_CHECKING

from bench.launch import available, descendants, environment, pss
from bench.peers import APPPOT, APPPOT_OFFLINE
from bench.series import CaseError, Goal, Section, take_turns

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.measures import Bench

MIB = 1 << 20
READY = b"ready\n"
SETTLE = 2.0  # seconds
_IDLE = ("--memory", "512M", "--grace", "5")


def _start(bench: Bench, *options: str, runtime: str = "") -> subprocess.Popen[bytes]:
    words = [bench.apppot, "run", *_IDLE, *options, bench.image, "--"]
    extra = {"APPPOT_RUNTIME_DIR": runtime} if runtime else {}
    return subprocess.Popen(
        [*words, "/bin/sh", "-c", "echo ready; exec sleep 100000"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(extra),
        cwd=bench.share,
    )


def _await_ready(machine: subprocess.Popen[bytes], patience: float) -> None:
    """Wait for a machine's positive sign; raises CaseError."""
    assert machine.stdout
    assert machine.stderr
    if not select.select([machine.stdout], [], [], patience)[0]:
        raise CaseError(f"no sign of life within {patience:g} s")
    if machine.stdout.readline() != READY:
        raise CaseError(f"it said: {machine.stderr.read()[-200:]!r}")


@contextlib.contextmanager
def _one(bench: Bench, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    machine = _start(bench, *options)
    try:
        _await_ready(machine, 60)
        time.sleep(SETTLE)
        yield machine
    finally:
        machine.send_signal(signal.SIGTERM)
        try:
            machine.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            machine.kill()
            machine.communicate()


def idle(bench: Bench) -> list[Section]:
    """One idle machine of 512 MB: kernel, its processes and helpers; the launcher apart."""
    section = Section(
        "PSS of an idle machine of 512 MB",
        "MB",
        note="1 MB = 10^6 bytes; kernel process, its children and helpers; launcher: the Python"
        " process",
    )

    def machine_of(*options: str) -> float:
        with _one(bench, *options) as machine:
            return sum(map(pss, descendants(machine.pid))) / 1e6

    def launcher() -> float:
        with _one(bench) as machine:
            return pss(machine.pid) / 1e6

    cases = {
        APPPOT: machine_of,
        APPPOT_OFFLINE: lambda: machine_of("--network", "none"),
        "launcher": launcher,
    }
    take_turns(section, cases, 1 if bench.quick else 3, bench.said)
    section.at_most(APPPOT, 28)
    section.at_most(APPPOT_OFFLINE, 28)
    return [section]


def fleet(bench: Bench) -> list[Section]:
    """Start many machines at once, have a sign from each, weigh them, stop them all."""
    section = Section(f"{bench.machines} idle machines of 512 MB at once", "MB", digits=0)
    with tempfile.TemporaryDirectory(prefix="apppot-fleet-", dir="/tmp") as runtime:
        before = available()
        began = time.perf_counter()
        machines = [
            _start(bench, "--network", "none", runtime=runtime) for _ in range(bench.machines)
        ]
        try:
            _weigh(bench, section, machines, before, began)
        except CaseError as error:
            section.missing[APPPOT] = str(error)
        left = _stop(section, machines, runtime)
    section.goals.append(
        Goal("nothing is left after they were stopped", left or "nothing", not left)
    )
    return [section]


def _weigh(
    bench: Bench,
    section: Section,
    machines: list[subprocess.Popen[bytes]],
    before: int,
    began: float,
) -> None:
    from bench.series import Sample

    for number, machine in enumerate(machines):
        bench.said(f"{section.title}: waiting for {number + 1}")
        _await_ready(machine, 300)
    took = time.perf_counter() - began
    time.sleep(SETTLE)
    below = [pid for machine in machines for pid in descendants(machine.pid)]
    rows = {
        "total PSS of the machines": sum(map(pss, below)),
        "total PSS of the launchers": sum(pss(machine.pid) for machine in machines),
        "MemAvailable taken": before - available(),
    }
    for name, value in rows.items():
        section.samples[name] = Sample((value / 1e6,))
    section.note = f"all had given a sign of life after {took:.1f} s"
    section.goals.append(
        Goal(f"{bench.machines} machines run at once", f"{len(machines)} signs of life", True)
    )


def _stop(section: Section, machines: list[subprocess.Popen[bytes]], runtime: str) -> str:
    """Stop them all; return what is left, '' if nothing."""
    processes = {pid for machine in machines for pid in descendants(machine.pid)}
    began = time.perf_counter()
    for machine in machines:
        machine.send_signal(signal.SIGTERM)
    for machine in machines:
        try:
            machine.communicate(timeout=120)
        except subprocess.TimeoutExpired:
            machine.kill()
            machine.communicate()
    section.note += f"; all had ended {time.perf_counter() - began:.1f} s after a TERM to each"
    time.sleep(0.5)
    alive = [pid for pid in processes if os.path.exists(f"/proc/{pid}") and pss(pid)]
    folders = os.listdir(runtime)
    odd = {machine.returncode for machine in machines} - {128 + signal.SIGTERM}
    found = {"processes": len(alive), "folders": len(folders)}
    found["unexpected exit statuses"] = len(odd)
    return ", ".join(f"{count} {what}" for what, count in found.items() if count)
