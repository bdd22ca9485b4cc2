"""Contract: what C libraries never do, and what debuggers see, is the same as natively."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.contract.programs import compiled

if TYPE_CHECKING:
    from tests.contract.harness import AppPot


PROGRAMS = ["natively", "tracing"]


def _check(apppot: AppPot, name: str, *options: str) -> None:
    program = compiled(apppot, name, "gnu17")
    here = subprocess.run([apppot.path(program)], capture_output=True, text=True, check=True)
    done = apppot.run(program, options=options)
    assert done.status == 0, done
    assert done.text.splitlines() == here.stdout.splitlines()


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_same_as_natively(apppot: AppPot, name: str) -> None:
    _check(apppot, name, "--cpus", "2")


@pytest.mark.only_on("uml", reason="modes are User-Mode Linux's")
@pytest.mark.parametrize("name", PROGRAMS)
@pytest.mark.parametrize("mode", ["seccomp", "ptrace"])
def test_the_same_in_each_mode(apppot: AppPot, mode: str, name: str) -> None:
    _check(apppot, name, "--uml-mode", mode)
