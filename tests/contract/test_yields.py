"""Contract: a thread that yields lets others run at once, and whoever watches it sees that."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.contract.programs import compiled

if TYPE_CHECKING:
    from tests.contract.harness import AppPot

_PATIENCE = 120.0


@pytest.mark.parametrize("cpus", ["1", "2"])
def test_yields_are_noticed(apppot: AppPot, cpus: str) -> None:
    program = compiled(apppot, "yields", "gnu17")
    done = apppot.run(program, options=("--cpus", cpus), timeout=_PATIENCE)
    assert (done.status, done.stdout) == (0, b"ok\n"), done


@pytest.mark.only_on("uml", reason="modes are User-Mode Linux's")
def test_the_same_in_ptrace_mode(apppot: AppPot) -> None:
    program = compiled(apppot, "yields", "gnu17")
    done = apppot.run(program, options=("--uml-mode", "ptrace"), timeout=_PATIENCE)
    assert (done.status, done.stdout) == (0, b"ok\n"), done
