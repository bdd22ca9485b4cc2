"""Contract: programs read the clocks without system calls, and find what these would tell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.contract.harness import until
from tests.contract.programs import compiled
from tests.processes import children

if TYPE_CHECKING:
    from tests.contract.harness import AppPot


@pytest.fixture
def clocks(apppot: AppPot) -> str:
    """Compile the program into the job folder; return its name there."""
    return compiled(apppot, "clocks", "gnu17")


def _check(apppot: AppPot, clocks: str, word: str, *options: str) -> None:
    done = apppot.run(clocks, word, options=options)
    assert (done.status, done.stdout) == (0, b"ok\n"), done


@pytest.mark.parametrize("cpus", ["1", "2"])
def test_library_and_system_calls_tell_the_same_time(
    apppot: AppPot, clocks: str, cpus: str
) -> None:
    _check(apppot, clocks, "order", "--cpus", cpus)


@pytest.mark.parametrize("cpus", ["1", "2"])
def test_also_after_the_clock_was_set_and_in_a_time_namespace(
    apppot: AppPot, clocks: str, cpus: str
) -> None:
    _check(apppot, clocks, "set", "--root", "--cpus", cpus)


@pytest.mark.only_on("uml", reason="modes are User-Mode Linux's")
def test_the_same_time_in_ptrace_mode(apppot: AppPot, clocks: str) -> None:
    _check(apppot, clocks, "order", "--uml-mode", "ptrace")


@pytest.mark.only_on("uml", reason="an emulated machine may have no clock that programs can read")
@pytest.mark.parametrize("cpus", ["1", "2"])
def test_clocks_are_read_without_system_calls(apppot: AppPot, clocks: str, cpus: str) -> None:
    _check(apppot, clocks, "silent", "--uml-mode", "seccomp", "--cpus", cpus)


@pytest.mark.only_on("uml", reason="a process of the host for each of the guest is UML's")
def test_programs_get_nothing_of_the_host_but_its_vdso(apppot: AppPot) -> None:
    options = ("--network", "none", "--uml-mode", "seccomp")
    with apppot.start(("sh", "-c", "echo up; exec sleep 1000"), options=options) as running:
        running.expect(b"up\n")
        # A process that is being made still has a stack of its own.
        kernel = running.kernel()
        assert until(lambda: not _foreign(kernel), patience=20.0), _foreign(kernel)


def _foreign(kernel: int) -> set[str]:
    """Return what a machine's processes have of the host but what each process is given."""
    maps = [_mappings(process) for process in children(kernel)]
    given = {"[vdso]", "[vvar]", "[vvar_vclock]", "[vsyscall]"}
    found = {name for names in maps for name in names if not name.startswith("/memfd:")}
    return found - given if maps else {"no process"}


def _mappings(process: int) -> list[str]:
    """Return what is mapped into a process of the host."""
    with open(f"/proc/{process}/maps", encoding="ascii") as file:
        return [" ".join(line.split()[5:]) for line in file]
