"""Signals that are sent to every process of a run, as batch systems do, end only the payload."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from typing import TYPE_CHECKING

import pytest

from tests.contract.harness import read_until
from tests.processes import children, command_of

if TYPE_CHECKING:
    from collections.abc import Iterator

IMAGE = os.environ.get("APPPOT_TEST_IMAGE", "debian:bookworm")
# The `sleep`s of the payload show that guest processes, too, go on.
PAYLOAD = """\
for name in HUP INT QUIT USR1 USR2 TERM; do trap "echo got $name; last=$name" $name; done
echo ready
while [ "$last" != TERM ]; do sleep 0.05; done
exit 42
"""
COMBINATIONS = [
    (mode, network, cpus)
    for mode in ("seccomp", "ptrace")
    for network in ("none", "user")
    for cpus in ("1", "2")
    if (mode, cpus) != ("ptrace", "2")  # the kernel has several CPUs in seccomp mode only
]


def _family(pid: int) -> list[int]:
    """Return a process and everything below it."""
    return [pid, *(relative for child in children(pid) for relative in _family(child))]


def _to_all(pid: int, number: int) -> None:
    for relative in _family(pid):
        with contextlib.suppress(ProcessLookupError):
            os.kill(relative, number)


@pytest.fixture(params=COMBINATIONS, ids="-".join)
def running(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[bytes]]:
    mode, network, cpus = request.param
    # fmt: off
    words = [
        sys.executable, "-m", "apppot", "run", "--uml-mode", mode, "--network", network,
        "--cpus", cpus, "--memory", "128M", "--no-job-dir", IMAGE, "--", "bash", "-c", PAYLOAD,
    ]
    # fmt: on
    with tempfile.TemporaryDirectory() as runtime:
        os.chmod(runtime, 0o700)
        environment = {**os.environ, "APPPOT_RUNTIME_DIR": runtime}
        process = subprocess.Popen(words, stdout=subprocess.PIPE, bufsize=0, env=environment)
        assert process.stdout is not None
        try:
            with process.stdout:
                read_until(process.stdout.fileno(), b"ready\n")
                yield process
                process.wait(30)
            assert os.listdir(runtime) == []
        finally:
            process.kill()
            process.wait()


def test_every_signal_to_every_process(running: subprocess.Popen[bytes]) -> None:
    assert running.stdout is not None
    # The kernel, and a host process for each guest process; that of the kernel is no single one.
    programs = [os.path.basename(command_of(pid)[0]) for pid in _family(running.pid)]
    assert b"linux" in programs
    assert len(programs) > 3
    for name in ("HUP", "INT", "QUIT", "USR1", "USR2"):
        _to_all(running.pid, signal.Signals[f"SIG{name}"])
        read_until(running.stdout.fileno(), f"got {name}\n".encode())
    _to_all(running.pid, signal.SIGTERM)
    read_until(running.stdout.fileno(), b"got TERM\n")
    assert running.wait(30) == 42


def test_stopping_and_continuing_every_process(running: subprocess.Popen[bytes]) -> None:
    assert running.stdout is not None
    for number in (signal.SIGTSTP, signal.SIGSTOP):
        _to_all(running.pid, number)
        time.sleep(0.3)
        _to_all(running.pid, signal.SIGCONT)
        time.sleep(0.3)
        assert running.poll() is None
        _to_all(running.pid, signal.SIGUSR1)
        read_until(running.stdout.fileno(), b"got USR1\n")
    _to_all(running.pid, signal.SIGTERM)
    assert running.wait(30) == 42
