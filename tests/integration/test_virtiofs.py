"""Where a virtiofsd is installed that fits, QEMU's machines have their folders from it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

import pytest

from apppot.machine import virtiofs, virtual
from tests.children import children

if TYPE_CHECKING:
    from collections.abc import Iterator

# The tests' own limit on open files may be lower than what is asked of users'; and there may be no
# KVM here, without which users get no virtiofs. No test of it runs a program of the folder, then.
FORCED = (
    "from apppot.machine import virtiofs\n"
    "virtiofs.FEWEST_DESCRIPTORS, virtiofs.EVEN_TRANSLATED = 1, True\n"
    "from apppot.__main__ import entry; entry()"
)
AS_FOR_USERS = (
    "from apppot.machine import virtiofs; virtiofs.FEWEST_DESCRIPTORS = 1\n"
    "from apppot.__main__ import entry; entry()"
)
SCRIPT = r"""
set -e
df --output=fstype . /x | tail -n +2
cat /x
fallocate -l 1M reserved
stat -c '%u %b' reserved
printf 'in the guest' >mine
python3 -c 'import mmap
with open("mine", "r+b") as f, mmap.mmap(f.fileno(), 0) as m: m[:2] = b"IN"' || printf IN | dd \
    of=mine conv=notrunc status=none
ln mine linked
mv linked renamed
if echo no >/x; then exit 9; fi
"""


@pytest.fixture(autouse=True)
def _needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(virtiofs, "FEWEST_DESCRIPTORS", 1)
    if virtual.problem():
        pytest.skip(virtual.problem())
    if virtiofs.program(translated=False) is None:
        pytest.skip("there is no virtiofsd of 1.13 or later (Debian has it from 13 on)")


@pytest.fixture
def job() -> Iterator[str]:
    folder = tempfile.mkdtemp(prefix="apppot-virtiofs-")
    yield folder
    shutil.rmtree(folder)


def run(job: str, *words: str, how: str = FORCED) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", how, "run", "--engine", "tcg", "--network", "none", *words]
    return subprocess.run(command, cwd=job, capture_output=True, text=True, check=False)


def test_folders_and_files_are_served(job: str) -> None:
    file = os.path.join(job, "one file")
    with open(file, "w", encoding="utf-8") as written:
        written.write("from the host\n")
    before = children()
    bind = ("--bind", f"{file}:/x:ro")
    done = run(job, *bind, "debian:bookworm", "--", "sh", "-c", SCRIPT)
    assert done.returncode == 0, done.stderr
    uid = os.geteuid()
    assert done.stdout.splitlines() == ["virtiofs"] * 2 + ["from the host", f"{uid} 2048"]
    with open(os.path.join(job, "renamed"), encoding="utf-8") as found:
        assert found.read() == "IN the guest"
    assert os.stat(os.path.join(job, "mine")).st_nlink == 2
    assert children() == before


def test_folders_with_odd_names_are_served_by_qemu(job: str) -> None:
    odd = os.path.join(os.fsencode(job), b"\xff")
    os.mkdir(odd)
    done = run(os.fsdecode(odd), "debian:bookworm", "--", "df", "--output=fstype", ".")
    assert done.stdout.split() == ["Type", "9p"], done.stderr


def test_programs_of_a_folder_run_again_and_again_where_they_are_translated(job: str) -> None:
    """With virtiofs they crash: QEMU does not see that their code has been read anew."""
    script = (
        "df --output=fstype . | tail -n 1; cp /bin/ls ls && for n in 1 2 3 4 5 6 7 8; do ./ls; done"
    )
    done = run(job, "debian:bookworm", "--", "sh", "-c", script, how=AS_FOR_USERS)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split() == ["9p", *["ls"] * 8]
