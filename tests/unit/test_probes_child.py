"""process.in_child: calls that may crash, hang or leave children."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from apppot import process
from apppot.errors import ProcessError
from tests.children import children

if TYPE_CHECKING:
    from pathlib import Path


def open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))


def test_result_and_no_leak() -> None:
    before = open_descriptors()
    assert process.in_child(lambda: {"a": [1, None, "ü"]}, 5.0) == {"a": [1, None, "ü"]}
    assert open_descriptors() == before
    assert children() == []


def test_large_result() -> None:
    assert process.in_child(lambda: "x" * 3_000_000, 20.0) == "x" * 3_000_000


def test_none_is_a_result() -> None:
    assert process.in_child(lambda: None, 5.0) is None


def test_the_errors_text_comes_back() -> None:
    def fails() -> None:
        raise OSError(13, "no entry")

    with pytest.raises(ProcessError, match=r"^no entry$") as caught:
        process.in_child(fails, 5.0)
    assert caught.value.returncode == 1

    def broken() -> object:
        return object()

    with pytest.raises(ProcessError) as caught:
        process.in_child(broken, 5.0)
    assert caught.value.returncode == 1


def test_death_by_a_signal() -> None:
    with pytest.raises(ProcessError, match="signal 9") as caught:
        process.in_child(lambda: os.kill(os.getpid(), signal.SIGKILL), 5.0)
    assert caught.value.returncode == -signal.SIGKILL


def test_deadline_ends_the_child_and_its_children(tmp_path: Path) -> None:
    names = tmp_path / "pids"

    def hangs() -> None:
        child = os.fork()
        if child == 0:
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            time.sleep(60)
            os._exit(0)
        names.write_text(f"{os.getpid()} {child}")
        time.sleep(60)

    begin = time.monotonic()
    with pytest.raises(ProcessError, match=r"within 0\.5 s") as caught:
        process.in_child(hangs, 0.5)
    assert caught.value.returncode == 124
    assert time.monotonic() - begin < 5
    assert all(not alive(int(pid)) for pid in names.read_text().split())


def test_what_a_child_leaves_behind_is_ended(tmp_path: Path) -> None:
    names = tmp_path / "pid"

    def leaves() -> None:
        child = os.fork()
        if child == 0:
            for descriptor in range(3, 100):
                try:
                    os.close(descriptor)
                except OSError:
                    continue
            time.sleep(60)
            os._exit(0)
        names.write_text(str(child))

    process.in_child(leaves, 5.0)
    assert not alive(int(names.read_text()))


def alive(pid: int) -> bool:
    """Return whether a process runs (one that is only waiting to be reaped does not)."""
    for _ in range(200):
        try:
            with open(f"/proc/{pid}/stat", encoding="ascii") as file:
                state = file.read().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return False
        if state in "ZX":
            return False
        time.sleep(0.01)
    return True
