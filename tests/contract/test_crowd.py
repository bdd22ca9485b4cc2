"""Contract: any number of runs share a base and a folder, and the base is never written."""

from __future__ import annotations

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.contract.harness import AppPot


def _digests() -> dict[str, tuple[str, int]]:
    """Return digest and time of change of every file in the stores."""
    found = {}
    for store in os.environ.get("APPPOT_STORE", "").split(":"):
        for folder, _, names in os.walk(store):
            for name in names:
                path = os.path.join(folder, name)
                with open(path, "rb") as file:
                    digest = hashlib.file_digest(file, "sha256").hexdigest()
                found[path] = (digest, os.stat(path).st_mtime_ns)
    return found


@pytest.mark.timeout(400)
def test_thirty_two_runs_at_once_in_one_folder(apppot: AppPot) -> None:
    before = _digests()
    assert before
    script = (
        "echo mine-$0 >/usr/bin/mine && rm -rf /usr/share/doc && echo $0 >/job/out-$0 &&"
        " cat /usr/bin/mine && exit $0"
    )

    def one(number: int) -> tuple[int, bytes, bytes]:
        options = ("--root", "--memory", "128M")
        done = apppot.run("sh", "-c", script, str(number), options=options, timeout=300)
        return done.status, done.stdout, done.stderr

    with ThreadPoolExecutor(32) as pool:
        found = list(pool.map(one, range(32)))
    assert found == [(n, f"mine-{n}\n".encode(), b"") for n in range(32)]
    assert sorted(os.listdir(apppot.job)) == sorted(f"out-{n}" for n in range(32))
    assert _digests() == before


def test_what_root_writes_is_gone_in_the_next_run(apppot: AppPot) -> None:
    first = apppot.sh("echo x >/etc/mark; rm /etc/passwd; cat /etc/mark", options=("--root",))
    assert (first.status, first.stdout) == (0, b"x\n")
    second = apppot.sh("test -e /etc/passwd && test ! -e /etc/mark && echo clean")
    assert second.stdout == b"clean\n"


@pytest.mark.sample
def test_ps_lists_and_exec_enters_a_running_machine(apppot: AppPot) -> None:
    with apppot.machine() as machine:
        (listed,) = apppot.machines()
        assert (listed["pid"], listed["image"]) == (machine.pid, apppot.image)
        assert machine.exec("sh", "-c", "echo $0; pwd", "x").stdout == b"x\n/job\n"
        table = apppot.call(apppot.verb("ps")).text.splitlines()
        assert len(table) == 2
        assert machine.ident in table[1]
    assert apppot.machines() == []
