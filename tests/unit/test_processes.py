"""Unit: the tests' own eyes see every process that lives below them."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from tests.processes import command_of, descendants

# As a killed kernel for some milliseconds: its first thread has gone before the others.
HEADLESS = """
import ctypes, subprocess, threading, time
child = subprocess.Popen(["sleep", "1000"])
threading.Thread(target=time.sleep, args=(1000,)).start()
print(child.pid, flush=True)
ctypes.CDLL(None).syscall(60, 0)
"""


def test_a_process_whose_first_thread_has_ended_lives() -> None:
    command = [sys.executable, "-c", HEADLESS]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        try:
            while b" Z " not in _status(parent.pid):
                pass
            assert {parent.pid, child} <= set(descendants())
            assert parent.returncode is None
        finally:
            for pid in (child, parent.pid):
                os.kill(pid, 9)
    assert parent.pid not in descendants()


def test_the_dead_are_no_descendants_and_orphans_are_reaped() -> None:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    while b" Z " not in _status(pid):
        pass
    (name,) = command_of(pid)
    assert re.fullmatch(rb"\[.+\]", name)  # it has no words any more
    assert pid not in descendants()
    with pytest.raises(ChildProcessError):
        os.waitpid(pid, 0)


def _status(pid: int) -> bytes:
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read()
