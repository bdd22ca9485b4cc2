"""Booting, with programs in the kernel's place; and the memory of which mode works."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from apppot import paths
from apppot.errors import ProcessError
from apppot.kit import Kit
from apppot.machine.probes import Mode, UmlMode, boot, forget_uml_mode, mode, remembered, uml_mode
from tests.children import children

if TYPE_CHECKING:
    from pathlib import Path

HELLO = r"printf 'APPPOT\0\001' >&3; "
CONFINE = """#!/bin/sh
echo "$*" > "${0%/*}/confined"
while [ "$1" != -- ]; do shift; done
shift; exec "$@"
"""


@pytest.fixture(autouse=True)
def own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APPPOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("APPPOT_RUNTIME_DIR", str(tmp_path / "run"))


def kit_of(tmp_path: Path, script: str) -> Kit:
    for name, text in (
        ("bin/linux", f"#!/bin/sh\n{script}\n"),
        ("bin/confine", CONFINE),
        ("boot/agent.cpio", "agent"),
    ):
        path = tmp_path / "kit" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    return Kit(str(tmp_path / "kit"))


def nothing_left(tmp_path: Path) -> bool:
    assert children() == []
    return os.listdir(tmp_path / "run") == []


def test_the_kernel_is_started_as_a_runs(tmp_path: Path) -> None:
    kit = kit_of(tmp_path, HELLO)
    assert boot.boot(kit, Mode.PTRACE).ok
    with open(f"{kit.path}/bin/confined", encoding="utf-8") as file:
        given, _, command = file.read().partition(" -- ")
    assert given.startswith(f"--parent {os.getpid()} ")
    assert {"--landlock", "--no-aslr"} <= set(given.split())
    assert command.startswith(f"{kit.path}/bin/linux mem=65536K seccomp=off ")


def test_hello(tmp_path: Path) -> None:
    kit = kit_of(tmp_path, f"printf 'BIOS APPP' >&3; sleep 0.1; {HELLO} read line <&3; exit 0")
    done = boot.boot(kit, Mode.SECCOMP)
    assert done.ok
    assert 0.1 <= done.seconds < 5
    assert nothing_left(tmp_path)


def test_a_kernel_that_does_not_power_off_is_ended(tmp_path: Path) -> None:
    done = boot.boot(kit_of(tmp_path, f"{HELLO} exec sleep 60"), Mode.SECCOMP)
    assert done.ok
    assert nothing_left(tmp_path)


def test_a_panic_is_told(tmp_path: Path) -> None:
    script = (
        "echo 'Checking X...OK'; echo 'Kernel panic - not syncing: no'; echo ' [<60>] ?'; exit 3"
    )
    done = boot.boot(kit_of(tmp_path, script), Mode.PTRACE)
    assert not done.ok
    assert not done.timed_out
    assert done.why == "the kernel ended with status 3; it said: Kernel panic - not syncing: no"
    assert "Checking X" in done.console
    assert nothing_left(tmp_path)


def test_death_without_a_word(tmp_path: Path) -> None:
    done = boot.boot(kit_of(tmp_path, "kill -SEGV $$"), Mode.PTRACE)
    assert done.why == "the kernel was killed by SIGSEGV without a word"


def test_silence_has_a_deadline(tmp_path: Path) -> None:
    begin = time.monotonic()
    done = boot.boot(kit_of(tmp_path, "echo thinking; exec sleep 60"), Mode.SECCOMP, deadline=0.4)
    assert time.monotonic() - begin < 5
    assert done.timed_out
    assert done.why == "no hello within 0 s; it said: thinking"
    assert nothing_left(tmp_path)


def test_a_program_that_cannot_be_started(tmp_path: Path) -> None:
    kit = kit_of(tmp_path, "")
    os.chmod(kit.file("bin/confine"), 0o644)
    with pytest.raises(ProcessError, match="cannot start"):
        boot.boot(kit, Mode.SECCOMP)
    assert nothing_left(tmp_path)


COUNTED = 'echo boot >> "${0%/*}/count"; case "$*" in '


def boots(kit: Kit) -> int:
    path = f"{kit.path}/bin/count"
    if not os.path.exists(path):
        return 0
    with open(path, encoding="ascii") as file:
        return len(file.readlines())


def test_the_answer_is_remembered_until_the_kit_changes(tmp_path: Path) -> None:
    kit = kit_of(tmp_path, f"{COUNTED} *seccomp=on*) {HELLO} ;; esac")
    first = uml_mode(kit)
    assert first == UmlMode(Mode.SECCOMP, "a kernel booted in seccomp mode")
    assert uml_mode(kit) == first
    assert boots(kit) == 1
    os.utime(kit.file("bin/linux"), ns=(1, 1))
    assert uml_mode(kit) == first
    assert boots(kit) == 2
    forget_uml_mode()
    assert uml_mode(kit) == first
    assert boots(kit) == 3
    assert [name for name in os.listdir(tmp_path / "cache" / "probes") if "." in name] == []


def test_ptrace_with_its_reason_survives_the_cache(tmp_path: Path) -> None:
    script = f"{COUNTED} *seccomp=off*) {HELLO} ;; *) printf 'no\\ttrap\\n'; exit 1 ;; esac"
    kit = kit_of(tmp_path, script)
    found = uml_mode(kit)
    assert found.mode is Mode.PTRACE
    assert "seccomp: the kernel ended with status 1; it said: no" in found.reason
    again = uml_mode(kit)
    assert again.mode is Mode.PTRACE
    assert again.reason.split() == found.reason.split()
    assert boots(kit) == 2


def test_failure_and_time_outs_are_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit = kit_of(tmp_path, f"{COUNTED} x) ;; esac; exit 1")
    assert uml_mode(kit).mode is Mode.NONE
    assert uml_mode(kit).mode is Mode.NONE
    assert boots(kit) == 4

    def slow(kit: Kit, mode: Mode) -> boot.Boot:
        return boot.Boot(mode, mode is Mode.PTRACE, 1.0, "why", timed_out=mode is Mode.SECCOMP)

    monkeypatch.setattr(boot, "boot", slow)
    assert uml_mode(kit).mode is Mode.PTRACE
    assert not os.path.exists(remembered.path())


def test_a_cache_that_cannot_be_written_does_no_harm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APPPOT_CACHE", "/proc/self/nowhere")
    kit = kit_of(tmp_path, HELLO)
    assert uml_mode(kit).mode is Mode.SECCOMP
    assert uml_mode(kit).mode is Mode.SECCOMP


def test_a_remembered_answer_is_quick(tmp_path: Path) -> None:
    kit = kit_of(tmp_path, HELLO)
    uml_mode(kit)
    times = []
    for _ in range(20):
        begin = time.perf_counter()
        uml_mode(kit)
        times.append(time.perf_counter() - begin)
    assert min(times) < 0.001


@given(st.binary(max_size=200))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_a_damaged_cache_is_no_answer(content: bytes) -> None:
    path = remembered.path()
    assert path.startswith(paths.cache_dir())
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb") as file:
        file.write(content)
    assert mode._recall("0 -1 the key") is None
    mode._remember("0 -1 the key", UmlMode(Mode.PTRACE, "since"))
    assert mode._recall("0 -1 the key") == UmlMode(Mode.PTRACE, "since")
