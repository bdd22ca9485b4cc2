"""Contract: files that a payload makes have the modes that an ordinary command's would have."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.contract.harness import AppPot

MAKE = (
    "umask; touch file; mkdir folder; cp /bin/true program; ln -s file link; touch x; chmod 640 x"
)


@pytest.mark.parametrize("mask", [0o022, 0o002, 0o077, 0o000])
def test_modes_follow_the_callers_umask(apppot: AppPot, mask: int) -> None:
    before = os.umask(mask)
    try:
        done = apppot.sh(MAKE)
    finally:
        os.umask(before)
    assert (done.status, done.text) == (0, f"{mask:04o}\n"), done.complaint
    found = {
        name: stat.S_IMODE(os.stat(apppot.path(name)).st_mode)
        for name in ("file", "folder", "program", "x")
    }
    assert found == {
        "file": 0o666 & ~mask,
        "folder": 0o777 & ~mask,
        "program": 0o755 & ~mask,
        "x": 0o640,
    }


def test_a_second_command_has_the_same_umask(apppot: AppPot) -> None:
    before = os.umask(0o027)
    try:
        with apppot.machine() as running:
            os.umask(before)
            assert running.exec("sh", "-c", "umask").text == "0027\n"
    finally:
        os.umask(before)


@pytest.mark.only_on("uml", reason="modes are User-Mode Linux's")
def test_several_cpus_are_refused_where_the_kernel_has_but_one(apppot: AppPot) -> None:
    done = apppot.sh("true", options=("--uml-mode", "ptrace", "--cpus", "2"))
    assert done.status == 125
    assert "--cpus 2" in done.complaint
    assert "seccomp" in done.complaint
