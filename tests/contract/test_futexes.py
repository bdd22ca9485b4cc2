"""Contract: no thread that waits for another one is forgotten."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.contract.programs import compiled

if TYPE_CHECKING:
    from tests.contract.harness import AppPot

_PATIENCE = 120.0


@pytest.mark.parametrize("cpus", ["1", "2"])
def test_each_wake_finds_who_waits(apppot: AppPot, cpus: str) -> None:
    program = compiled(apppot, "futexes", "gnu17")
    done = apppot.run(program, "3", options=("--cpus", cpus), timeout=_PATIENCE)
    assert (done.status, done.stdout) == (0, b"ok\n"), done


@pytest.mark.only_on("uml", reason="modes are User-Mode Linux's")
def test_the_same_in_ptrace_mode(apppot: AppPot) -> None:
    program = compiled(apppot, "futexes", "gnu17")
    done = apppot.run(program, "3", options=("--uml-mode", "ptrace"), timeout=_PATIENCE)
    assert (done.status, done.stdout) == (0, b"ok\n"), done
