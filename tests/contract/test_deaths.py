"""Contract: whatever dies, nothing is left behind, nothing hangs, and the user is told."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import random
import shutil
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.contract.harness import report_of, until
from tests.processes import command_of, descendants

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.contract.harness import AppPot, Running

OFFLINE = ("--network", "none")
BUSY = "echo up; while :; do echo $((n+=1)) >/job/count; head -c 100000 /dev/urandom >/tmp/x; done"


def _gone(apppot: AppPot) -> None:
    """Fail if a process of a run lives on."""
    until(lambda: not descendants(apppot.others), patience=15)
    assert [command_of(pid) for pid in descendants(apppot.others)] == []
    assert glob.glob("/dev/shm/*apppot*") == []
    assert os.listdir(apppot.scratch) == []


def _kill_at_random(apppot: AppPot, victim: Callable[[Running], int], seed: int) -> int:
    """Kill a process of a run at a random moment; return the run's status."""
    moment = random.Random(seed).uniform(0.0, 1.2)
    options = ("--scratch", "64M", "--memory", "256M")
    with apppot.start(("sh", "-c", BUSY), options=options, stdout=subprocess.DEVNULL) as running:
        end = time.monotonic() + moment
        while time.monotonic() < end and running.process.poll() is None:
            time.sleep(0.005)
        with contextlib.suppress(ValueError, ProcessLookupError):  # not started yet
            os.kill(victim(running), signal.SIGKILL)
            if victim is not _helper:
                running.process.wait(timeout=60)
    return running.process.returncode


def _launcher(running: Running) -> int:
    return running.pid


def _kernel(running: Running) -> int:
    return running.kernel()


def _helper(running: Running) -> int:
    return running.helper("passt")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_fifty_kills_leave_nothing(apppot: AppPot) -> None:
    for seed in range(50):
        victim = (_launcher, _kernel, _helper)[seed % 3]
        status = _kill_at_random(apppot, victim, seed)
        if victim is _kernel:
            assert status in (125, 143, -signal.SIGTERM), seed  # TERM: it had not begun
        _gone(apppot)
    # Only killed launchers may leave a folder, and the last prune takes it.
    prune = apppot.call(apppot.verb("prune"))
    assert prune.status == 0, prune.stderr
    assert apppot.leftovers() == []


@pytest.mark.sample
@pytest.mark.parametrize("kind", ["launcher", "kernel"])
def test_a_kill_leaves_nothing(apppot: AppPot, kind: str) -> None:
    with apppot.start(("sh", "-c", BUSY), options=("--scratch", "64M")) as running:
        running.expect(b"up\n")
        os.kill(running.pid if kind == "launcher" else running.kernel(), signal.SIGKILL)
        done = running.wait()
        assert done.status == (-signal.SIGKILL if kind == "launcher" else 125)
    _gone(apppot)
    if kind == "launcher":  # the next run sweeps
        assert apppot.leftovers() != []
        assert apppot.sh("exit 3").status == 3
    else:
        assert "killed by signal 9" in done.complaint
        assert len(done.complaint.splitlines()) <= 2
    assert apppot.leftovers() == []


@pytest.mark.sample
def test_without_passt_the_run_goes_on(apppot: AppPot) -> None:
    script = "echo up; while [ ! -e /job/go ]; do sleep 0.05; done; echo still here; exit 6"
    with apppot.start(("sh", "-c", script), options=("--report", "report.json")) as running:
        running.expect(b"up\n")
        os.kill(running.helper("passt"), signal.SIGKILL)
        with open(apppot.path("go"), "w", encoding="ascii"):
            pass
        done = running.wait()
    assert (done.status, done.stdout) == (6, b"still here\n")
    assert report_of(apppot.path("report.json"))["source"] == "payload"


def test_a_connection_without_passt_fails_in_the_guest(apppot: AppPot) -> None:
    script = (
        "echo up; while [ ! -e /job/go ]; do sleep 0.05; done;"
        " timeout 5 bash -c 'echo >/dev/tcp/10.0.2.2/9' 2>/dev/null; echo connect:$?"
    )
    with apppot.start(("sh", "-c", script), options=()) as running:
        running.expect(b"up\n")
        os.kill(running.helper("passt"), signal.SIGKILL)
        with open(apppot.path("go"), "w", encoding="ascii"):
            pass
        done = running.wait()
    assert done.status == 0
    assert done.stdout in (b"connect:1\n", b"connect:124\n")


@pytest.mark.sample
def test_a_guest_panic_is_told(apppot: AppPot) -> None:
    script = (
        "echo up; echo 1 >/proc/sys/vm/panic_on_oom || exit 9;"
        " exec perl -e '$x = q(x) x (1 << 20); push @a, $x . rand while 1'"
    )
    options = ("--root", "--memory", "128M", "--report", "report.json")
    done = apppot.sh(script, options=options)
    assert (done.status, done.stdout) == (125, b"up\n")
    assert "guest kernel panicked" in done.complaint
    assert "--memory" in done.complaint
    assert len(done.complaint.splitlines()) <= 2
    assert report_of(apppot.path("report.json"))["source"] == "apppot"


def test_a_guest_out_of_memory_kills_the_payload_and_says_so(apppot: AppPot) -> None:
    eater = "perl -e '$x = q(x) x (1 << 20); push @a, $x . rand while 1'"
    done = apppot.sh(f"echo up; exec {eater}", options=("--memory", "128M"))
    assert (done.status, done.stdout) == (137, b"up\n")
    assert "ran out of memory" in done.complaint
    assert "--memory" in done.complaint


@pytest.mark.parametrize("options", [("--memory", "128M"), ("--scratch", "16M")])
def test_full_scratch_is_enospc_for_the_payload(apppot: AppPot, options: tuple[str, ...]) -> None:
    script = "head -c 400000000 /dev/zero >/var/tmp/big; echo status:$?; rm /var/tmp/big; echo left"
    done = apppot.sh(script, options=("--root", *options))
    assert done.status == 0, done
    assert done.stdout == b"status:1\nleft\n"
    assert "No space left on device" in done.complaint


def test_a_full_host_disk_is_told(apppot: AppPot) -> None:
    """The scratch folder is a tmpfs of 4 MiB that only this run sees."""
    if subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        pytest.skip("needs a private mount namespace: run as root")
    write = "head -c 60000000 /dev/urandom >/var/tmp/big"
    line = apppot.line(
        ("sh", "-c", f"{write} && sync && sync -f /var/tmp/big; echo status:$?"),
        (*OFFLINE, "--root", "--scratch", "128M", "--memory", "256M"),
    )
    mounted = f'mount -t tmpfs -o size=4M none "{apppot.scratch}" && exec "$@"'
    done = apppot.call(["unshare", "-m", "sh", "-c", mounted, "sh", *line])
    assert done.status in (0, 125), done  # the payload sees an error, or the machine is ended
    assert b"status:0" not in done.stdout
    assert f"is {apppot.scratch} full?" in done.complaint
    assert "Traceback" not in done.complaint


def _damaged(apppot: AppPot, damage: Callable[[str], None]) -> AppPot:
    """Return the command line with a copy of the image's store whose layer is damaged."""
    store = os.path.join(apppot.folder, "store")
    found = json.loads(apppot.call(apppot.verb("inspect", apppot.image)).stdout)
    layer = found["layers"][-1]["path"]

    def copy(source: str, target: str) -> str:
        with open(source, "rb") as file, open(target, "wb") as made:  # sparse: only the beginning
            made.write(file.read(1 << 20))
            made.truncate(os.path.getsize(source))
        return target

    shutil.copytree(found["store"], store, copy_function=copy)
    damage(os.path.join(store, os.path.relpath(layer, found["store"])))
    return apppot.having(APPPOT_STORE=store)


def _flip(path: str) -> None:
    with open(path, "r+b") as file:
        file.seek(1024)
        file.write(bytes(byte ^ 0xFF for byte in os.pread(file.fileno(), 128, 1024)))


def _truncate(path: str) -> None:
    os.truncate(path, 4096)


def _forbid(path: str) -> None:
    os.chmod(path, 0)


@pytest.mark.sample
@pytest.mark.parametrize("damage", [_flip, _truncate, os.unlink, _forbid])
def test_a_damaged_image_is_told(apppot: AppPot, damage: Callable[[str], None]) -> None:
    if damage is _forbid and os.getuid() == 0:
        pytest.skip("root reads every file")
    done = _damaged(apppot, damage).sh("echo no; exit 0")
    assert (done.status, done.stdout) == (125, b""), done
    assert done.complaint.startswith("apppot: ")
    assert len(done.complaint.splitlines()) <= 2, done.complaint


def test_the_job_folder_is_deleted_under_the_run(apppot: AppPot) -> None:
    folder = os.path.join(apppot.folder, "doomed")
    os.mkdir(folder)
    script = "echo up; read line; ls /job >/dev/null; cd /; echo x >/job/new; echo end; exit 5"
    with apppot.start(
        ("sh", "-c", script), options=(*OFFLINE, "--job-dir", folder), stdin=subprocess.PIPE
    ) as running:
        running.expect(b"up\n")
        os.rmdir(folder)
        assert running.process.stdin is not None
        running.process.stdin.write(b"go\n")
        done = running.wait(timeout=60)
    assert done.status in (5, 125)
    assert done.status == 125 or done.stdout == b"end\n"
    assert "Traceback" not in done.complaint
