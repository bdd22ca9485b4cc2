"""`apppot doctor` as users call it: on this computer as it is, and with things taken away."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any

import pytest

from apppot import kit as kits
from apppot.errors import KitError
from apppot.machine.probes.finding import NAMES, QUICK
from tests.contract.harness import until
from tests.processes import become_subreaper, descendants

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

# Forbids system calls (numbers in argv[1]) by a seccomp filter, and becomes the rest of argv.
FORBID = """
import ctypes, os, struct, sys
code = [(0x20, 0, 0, 0)]
for number in map(int, sys.argv[1].split(",")):
    code += [(0x15, 0, 1, number), (6, 0, 0, 0x00050001)]
code.append((6, 0, 0, 0x7FFF0000))
text = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *one) for one in code))
libc = ctypes.CDLL(None)
assert libc.prctl(38, 1, 0, 0, 0) == 0
assert libc.prctl(22, 2, struct.pack("HxxxxxxQ", len(code), ctypes.addressof(text))) == 0
os.execv(sys.argv[2], sys.argv[2:])
"""
SECCOMP, PTRACE, UNSHARE = 317, 101, 272


def find_kit() -> str:
    try:
        kit = kits.find()
        kit.file(kits.AGENT)
        kit.file(kits.PASST)
    except KitError as error:
        return f"no whole kit: {error.message}"
    return ""


WITHOUT_KIT = find_kit()
needs_kit = pytest.mark.skipif(bool(WITHOUT_KIT), reason=WITHOUT_KIT)


def doctor(
    *arguments: str,
    prefix: Sequence[str] = (),
    forbid: Sequence[int] = (),
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "apppot", "doctor", *arguments]
    if forbid:
        argv = [sys.executable, "-c", FORBID, ",".join(map(str, forbid)), *argv]
    return subprocess.run(
        [*prefix, *argv],
        env={**os.environ, **(env or {})},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        stdin=subprocess.DEVNULL,
    )


def findings(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, Any]]:
    assert done.stderr == ""
    data = json.loads(done.stdout)
    assert data["schema"] == 1
    assert data["ok"] is (done.returncode == 0)
    return {one["name"]: one for one in data["findings"]}


def test_quick_needs_nothing_and_takes_no_time() -> None:
    begin = time.monotonic()
    found = findings(doctor("--quick", "--json"))
    assert time.monotonic() - begin < 20  # 0.3 s on an idle computer
    assert tuple(found) == QUICK


def test_no_kit_is_a_failure_with_advice(tmp_path: Path) -> None:
    done = doctor("--quick", env={"APPPOT_KIT": str(tmp_path)})
    assert done.returncode == 1
    text = " ".join(done.stdout.split())
    assert "not a kit" in text
    assert "will not work on this computer because of: kit" in text


def test_an_unknown_probe_is_a_usage_error() -> None:
    done = doctor("kmv")
    assert done.returncode == 2
    assert "no such probe" in done.stderr
    assert "Traceback" not in done.stderr


def test_kvm_never_hangs_and_names_a_reason() -> None:
    begin = time.monotonic()
    found = findings(doctor("--json", "kvm"))["kvm"]
    assert time.monotonic() - begin < 30
    assert found["outcome"] in ("works", "fails")
    if os.access("/dev/kvm", os.R_OK | os.W_OK):
        # A guest was run: either it was measured, or something was wrong with it.
        assert (
            "guest" in found["found"] or "KVM" in found["found"] or "opens, but" in found["found"]
        )
    else:
        assert found["outcome"] == "fails"
        assert "/dev/kvm" in found["found"]


@needs_kit
def test_everything() -> None:
    done = doctor("--json")
    found = findings(done)
    assert tuple(found) == NAMES
    booted = [name for name in ("uml-seccomp", "uml-ptrace") if found[name]["outcome"] == "works"]
    assert all("booted" in found[name]["found"] for name in booted)
    assert done.returncode == (0 if booted else 1)


@needs_kit
def test_each_mode_by_itself() -> None:
    without_seccomp = findings(doctor("--json", forbid=[SECCOMP]))
    assert without_seccomp["uml-seccomp"]["outcome"] == "fails"
    assert "seccomp" in without_seccomp["uml-seccomp"]["details"]["console"]
    assert without_seccomp["uml-ptrace"]["outcome"] == "works"
    without_ptrace = findings(doctor("--json", forbid=[PTRACE]))
    assert without_ptrace["uml-seccomp"]["outcome"] == "works"
    assert without_ptrace["uml-ptrace"]["outcome"] == "fails"


@needs_kit
def test_without_both_modes_nothing_runs() -> None:
    done = doctor(forbid=[SECCOMP, PTRACE])
    assert done.returncode == 1
    assert "both modes of the engine uml" in done.stdout.replace("\n", " ")


@needs_kit
def test_passt_is_started_and_reached() -> None:
    found = findings(doctor("--json", "passt"))["passt"]
    assert found["outcome"] == "works", found


@needs_kit
def test_a_damaged_kit_is_seen(tmp_path: Path) -> None:
    copy = tmp_path / "kit"
    shutil.copytree(kits.locate(), copy)
    with open(copy / "bin" / "linux", "r+b") as file:
        file.seek(-1, os.SEEK_END)
        last = file.read(1)
        file.seek(-1, os.SEEK_END)
        file.write(bytes([last[0] ^ 1]))
    found = findings(doctor("--json", "kit", env={"APPPOT_KIT": str(copy)}))["kit"]
    assert found["outcome"] == "fails"
    assert "bin/linux" in found["found"]


@needs_kit
def test_too_small_a_largest_file() -> None:
    found = findings(
        doctor("--json", "uml-seccomp", "memory", prefix=["prlimit", "--fsize=30000000"])
    )
    assert found["memory"]["outcome"] == "fails"
    assert "ulimit -f" in found["memory"]["found"]
    assert found["uml-seccomp"]["outcome"] == "fails"


@needs_kit
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount something noexec")
def test_noexec_shared_memory_does_not_matter() -> None:
    remount = 'mount -o remount,noexec /dev/shm && exec "$@"'
    found = findings(
        doctor(
            "--json",
            "exec-memory",
            "uml-seccomp",
            prefix=["unshare", "-m", "sh", "-c", remount, "sh"],
        )
    )
    assert found["exec-memory"]["outcome"] == "works"
    assert "not in /dev/shm" in found["exec-memory"]["found"]
    assert found["uml-seccomp"]["outcome"] == "works", found["uml-seccomp"]


def test_nothing_is_left(tmp_path: Path) -> None:
    env = {"APPPOT_RUNTIME_DIR": str(tmp_path / "run"), "APPPOT_TMPDIR": str(tmp_path)}
    doctor(env=env)
    assert os.listdir(tmp_path / "run") == []
    assert os.listdir(tmp_path) == ["run"]


@pytest.fixture
def _orphans() -> Iterator[None]:
    become_subreaper()
    yield
    become_subreaper(on=False)


@needs_kit
@pytest.mark.usefixtures("_orphans")
@pytest.mark.parametrize("probe", ["uml-seccomp", "uml-ptrace", "passt", "runtime"])
def test_what_a_killed_doctor_leaves_is_swept(tmp_path: Path, probe: str) -> None:
    others = descendants()
    runtime = tmp_path / "run"
    env = {**os.environ, "APPPOT_RUNTIME_DIR": str(runtime), "APPPOT_TMPDIR": str(tmp_path)}
    words = [sys.executable, "-m", "apppot"]
    begin = time.monotonic()
    doctor(probe, env=env)
    usual = time.monotonic() - begin
    for part in range(1, 11):
        with subprocess.Popen([*words, "doctor", probe], stdout=-1, stderr=-1, env=env) as killed:
            time.sleep(usual * part / 10)
            killed.kill()
        assert until(lambda: not descendants(others), patience=5)
        subprocess.run([*words, "prune", "-q"], env=env, check=True)
        assert os.listdir(runtime) == []
    assert os.listdir(tmp_path) == ["run"]


def test_the_table_fits_its_terminal() -> None:
    done = doctor("--quick", env={"COLUMNS": "72"})
    assert max(map(len, done.stdout.splitlines())) <= 72
    assert done.stdout.splitlines()[-1].endswith(".")
