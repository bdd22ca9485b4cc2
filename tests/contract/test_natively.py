"""Contract: what C libraries never do has the same consequences as natively."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.contract.programs import compiled

if TYPE_CHECKING:
    from tests.contract.harness import AppPot


def _check(apppot: AppPot, *options: str) -> None:
    program = compiled(apppot, "natively", "gnu17")
    here = subprocess.run([apppot.path(program)], capture_output=True, text=True, check=True)
    done = apppot.run(program, options=options)
    assert done.status == 0, done
    assert done.text.splitlines() == here.stdout.splitlines()


def test_handlers_without_restorer_and_code_in_data(apppot: AppPot) -> None:
    _check(apppot, "--cpus", "2")


@pytest.mark.only_on("uml", reason="modes are User-Mode Linux's")
@pytest.mark.parametrize("mode", ["seccomp", "ptrace"])
def test_the_same_in_each_mode(apppot: AppPot, mode: str) -> None:
    _check(apppot, "--uml-mode", mode)
