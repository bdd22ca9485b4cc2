"""Folders of machines: locked by the living, swept when their owners are dead."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

import pytest

from apppot.errors import UsageError
from apppot.machine import rundir
from apppot.machine.rundir import RunDir

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "runtime"
    monkeypatch.setenv("APPPOT_RUNTIME_DIR", str(folder))
    return folder


def test_listed_while_it_lives_and_gone_afterwards(base: Path) -> None:
    with RunDir.make() as made:
        assert rundir.machines() == []  # nothing is known of it yet
        made.record({"pid": 1, "started": 2.0})
        (found,) = rundir.machines()
        assert (found.ident, found.facts["pid"]) == (made.ident, 1)
        assert rundir.select(made.ident[:3]).ident == made.ident
        assert rundir.sweep() == []
    assert os.listdir(base) == []


def test_the_dead_are_swept_and_strangers_stay(base: Path) -> None:
    base.mkdir(mode=0o700)
    (base / "0123abcd").mkdir()
    (base / "0123abcd" / "console.log").write_text("x")
    (base / "keep-me").mkdir()
    (base / "ffffffff").symlink_to(base / "keep-me")
    assert rundir.sweep() == ["0123abcd"]
    assert sorted(os.listdir(base)) == ["ffffffff", "keep-me"]


def test_ambiguous_and_unknown_names() -> None:
    with RunDir.make() as one, RunDir.make() as two:
        for made in (one, two):
            made.record({"started": 0})
        with pytest.raises(UsageError, match="fits 2 machines"):
            rundir.select("")
    with pytest.raises(UsageError, match="no machine 'ff'"):
        rundir.select("ff")


def test_making_and_sweeping_at_the_same_time() -> None:
    """A sweep may take a folder between its making and its lock; the maker tries again."""
    stop = threading.Event()

    def sweep() -> None:
        while not stop.is_set():
            rundir.sweep()

    sweepers = [threading.Thread(target=sweep) for _ in range(3)]
    for thread in sweepers:
        thread.start()
    try:
        for _ in range(200):
            with RunDir.make() as made:
                made.record({"started": 0})
                assert os.path.exists(made.file(rundir.RECORD))
    finally:
        stop.set()
        for thread in sweepers:
            thread.join()
