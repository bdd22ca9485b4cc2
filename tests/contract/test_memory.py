"""Contract: memory holds what was written to it, whatever a program does with it, and how much."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.contract.programs import compiled

if TYPE_CHECKING:
    from tests.contract.harness import AppPot

_PATIENCE = 300.0
# Pages one by one, so that a machine gets as many mappings on the host as that allows, and more.
_SINGLE = "thp_anon=16K,32K,64K,128K,256K,512K,1M:never"
_MODES = ("seccomp", "ptrace")


@pytest.fixture
def checker(apppot: AppPot) -> str:
    """Compile the program that checks every word, into the job folder; return its name there."""
    return compiled(apppot, "memory")


def _check(apppot: AppPot, command: str, *options: str) -> None:
    done = apppot.sh(command, options=options, timeout=_PATIENCE)
    assert (done.status, done.stdout) == (0, b"all right\n"), done


@pytest.mark.only_on("uml", reason="modes are User-Mode Linux's")
@pytest.mark.parametrize("mode", _MODES)
@pytest.mark.parametrize("folder", ["/tmp", "/job"])
def test_every_word(apppot: AppPot, checker: str, mode: str, folder: str) -> None:
    _check(apppot, f"{checker} -m 48 -t 2 -r 60 -s 1 {folder}", "--uml-mode", mode)


def test_every_word_on_two_virtual_cpus(apppot: AppPot, checker: str) -> None:
    _check(apppot, f"{checker} -m 48 -t 4 -r 60 -s 2 /tmp", "--cpus", "2")


def test_every_word_of_single_pages(apppot: AppPot, checker: str) -> None:
    _check(apppot, f"{checker} -m 48 -t 2 -r 60 -s 3 /tmp", "--kernel-arg", _SINGLE)


@pytest.mark.only_on("uml", reason="a mapping for each page is User-Mode Linux's")
@pytest.mark.parametrize("mode", _MODES)
def test_shared_memory_comes_in_pieces_of_many_pages(apppot: AppPot, mode: str) -> None:
    _check(apppot, compiled(apppot, "shared", "gnu17"), "--uml-mode", mode)


def test_every_word_under_memory_pressure(apppot: AppPot, checker: str) -> None:
    # Files of the job folder fill the page cache, which has to be given back all the time.
    filler = "while :; do cat filler >/dev/null; done &"
    with open(apppot.path("filler"), "wb") as file:
        file.write(os.urandom(1 << 20) * 300)
    _check(apppot, f"{filler} {checker} -m 48 -t 2 -r 60 -s 4 /job", "--memory", "192M")


@pytest.mark.parametrize("mode", _MODES)
@pytest.mark.only_on("uml", reason="a mapping for each page is User-Mode Linux's")
def test_more_scattered_pages_than_the_host_gives_mappings(
    apppot: AppPot, checker: str, mode: str
) -> None:
    with open("/proc/sys/vm/max_map_count", encoding="ascii") as file:
        limit = int(file.read())
    megabytes = limit // 256 + 40
    if megabytes > 1000:
        pytest.skip(f"vm.max_map_count is {limit} here: more than this test would fill")
    options = ("--uml-mode", mode, "--memory", f"{2 * megabytes + 300}M", "--kernel-arg", _SINGLE)
    _check(apppot, f"{checker} -m {megabytes * 2} -t 1 -r 0 -w -s 5 /tmp", *options)
