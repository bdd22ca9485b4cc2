"""Probes that need no machine, the registry, the table and the verdict."""

from __future__ import annotations

import ctypes
import importlib
import json
import mmap
import os
import resource
import struct
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apppot import process
from apppot.errors import AppPotError
from apppot.machine.probes import finding, isolation, kvm, memory, report, storage, uml
from apppot.machine.probes.finding import NAMES, Finding, Outcome

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MIB = 1 << 20


def limited(kind: int, value: int, probe: Callable[[], Finding]) -> dict[str, Any]:
    """Run a probe in a child with a resource limit."""

    def run() -> dict[str, Any]:
        resource.setrlimit(kind, (value, value))
        return probe().as_dict()

    result: dict[str, Any] = process.in_child(run, 20.0)
    return result


def forbidding(numbers: list[int], probe: Callable[[], object]) -> Any:
    """Run a probe in a child whose system calls `numbers` fail with EPERM."""

    def run() -> object:
        statements = [(0x20, 0, 0, 0)]
        for number in numbers:
            statements += [(0x15, 0, 1, number), (0x06, 0, 0, 0x00050001)]
        statements.append((0x06, 0, 0, 0x7FFF0000))
        code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *s) for s in statements))
        program = struct.pack("HxxxxxxQ", len(statements), ctypes.addressof(code))
        libc = ctypes.CDLL(None)
        assert libc.prctl(38, 1, 0, 0, 0) == 0
        assert libc.prctl(22, 2, program) == 0
        return probe()

    return process.in_child(run, 30.0)


@pytest.mark.parametrize("name", NAMES)
def test_every_probe_exists_and_explains_itself(name: str) -> None:
    module = importlib.import_module(f"apppot.machine.probes.{finding._PROBES[name]}")
    assert getattr(module, name.replace("-", "_")).__doc__


@pytest.mark.parametrize("name", [name for name in finding.QUICK if name != "kit"])
def test_a_quick_probe_finds_something(name: str) -> None:
    found = finding.examine(name, quick=True)
    assert found.name == name
    assert found.found
    assert found.outcome is Outcome.WORKS or found.meaning
    json.dumps(found.as_dict())


@pytest.mark.parametrize("error", [AppPotError("broken", hint="mend it"), OSError(5, "broken")])
def test_a_probe_that_fails_is_a_finding(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> Finding:
        raise error

    monkeypatch.setattr(storage, "disk", fails)
    found = finding.examine("disk")
    assert found.outcome is Outcome.UNKNOWN
    assert "broken" in found.found


def test_seccomp_and_ptrace_are_really_tried() -> None:
    errors: list[str] = forbidding([317, 101], lambda: [uml.seccomp_error(), uml.ptrace_error()])
    assert errors[0].startswith("seccomp filter: Operation not permitted")
    assert errors[1].startswith("ptrace: PTRACE_TRACEME: Operation not permitted")


def test_executable_memory_is_really_tried() -> None:
    found = forbidding([319], lambda: memory.exec_memory().as_dict())
    assert found["outcome"] == "limited"
    assert "not in memfd: Operation not permitted" in found["found"]
    found = forbidding([9], lambda: memory.exec_memory().as_dict())  # no mmap at all
    assert found["outcome"] == "fails"


def test_landlock_is_really_tried() -> None:
    found = forbidding([444], lambda: isolation.landlock().as_dict())
    assert found["outcome"] == "fails"
    assert "sandbox" in found["found"]
    found = forbidding([446], lambda: isolation.landlock().as_dict())
    assert found["outcome"] == "fails"


def test_user_namespaces_are_really_tried() -> None:
    found = forbidding([272], lambda: isolation.user_namespaces().as_dict())
    assert found["outcome"] == "fails"
    assert found["found"].startswith("unshare: Operation not permitted (")
    found = forbidding([165], lambda: isolation.user_namespaces().as_dict())
    assert found["outcome"] == "fails"  # AppArmor lets one in, and then forbids everything


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("kernel/unprivileged_userns_clone", "0", True),
        ("kernel/unprivileged_userns_clone", "1", False),
        ("user/max_user_namespaces", "0", True),
        ("user/max_user_namespaces", "96365", False),
        ("kernel/apparmor_restrict_unprivileged_userns", "1", True),
        ("kernel/apparmor_restrict_unprivileged_userns", "0", False),
    ],
)
def test_the_setting_that_forbids_is_named(
    tmp_path: Path, path: str, value: str, named: bool
) -> None:
    file = tmp_path / "proc/sys" / path
    file.parent.mkdir(parents=True)
    file.write_text(f"{value}\n")
    expected = [f"{path.replace('/', '.')}={value}"] if named else []
    assert isolation.forbidding_sysctls(str(tmp_path)) == expected


def test_a_small_address_space_is_a_memory_limit() -> None:
    found = limited(resource.RLIMIT_AS, 400 * MIB, memory.memory)
    assert found["outcome"] == "limited"
    assert "ulimit -v" in found["found"]


def test_a_small_largest_file_limits_disk_and_memory() -> None:
    found = limited(resource.RLIMIT_FSIZE, 500 * MIB, storage.disk)
    assert found["outcome"] == "limited"
    assert "ulimit -f" in found["found"]
    found = limited(resource.RLIMIT_FSIZE, 50 * MIB, memory.memory)
    assert found["outcome"] == "fails"


def test_folders_that_do_not_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    monkeypatch.setenv("APPPOT_STORE", str(in_the_way / "store"))
    assert storage.store().outcome in (Outcome.FAILS, Outcome.LIMITED)
    monkeypatch.setenv("APPPOT_RUNTIME_DIR", str(tmp_path / ("long" * 30)))
    assert storage.runtime().outcome is Outcome.WORKS
    assert os.listdir(tmp_path / ("long" * 30)) == []
    monkeypatch.setenv("APPPOT_STORE", str(tmp_path / "store"))
    assert storage.store().outcome is Outcome.WORKS
    assert not (tmp_path / "store").exists()


def test_no_kvm_device(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvm, "DEVICE", "/dev/null/kvm")
    assert kvm.kvm().outcome is Outcome.FAILS
    monkeypatch.setattr(kvm, "DEVICE", "/dev/no-such-device")
    assert "there is no" in kvm.kvm().found


def test_a_device_that_is_not_kvm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kvm, "DEVICE", "/dev/zero")
    found = kvm.kvm()
    assert found.outcome is Outcome.FAILS
    assert "opens, but" in found.found


def test_a_guest_that_hangs_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    def hangs() -> dict[str, Any]:
        while True:
            pass

    monkeypatch.setattr(kvm, "DEVICE", "/dev/zero")
    monkeypatch.setattr(kvm, "run_guest", hangs)
    monkeypatch.setattr(kvm, "DEADLINE", 0.3)
    assert "did not end within 0.3 s" in kvm.kvm().found


MEASURED = {"instructions_per_second": 2_000_000_000, "finished": True, "right": True}


def test_judging_a_guest() -> None:
    assert kvm.judge(MEASURED, {}).outcome is Outcome.WORKS
    wrong = kvm.judge({**MEASURED, "right": False}, {})
    assert wrong.outcome is Outcome.FAILS
    details = {"modules": ["kvm_pvm"], "hardware": False}
    slow = {"instructions_per_second": 800_000, "finished": False}
    crawling = kvm.judge(slow, details)
    assert crawling.outcome is Outcome.FAILS
    assert "crawls: 0.8 million" in crawling.found
    assert "kvm_pvm" in crawling.found
    assert "no vmx or svm" in crawling.found


def test_the_guest_program_computes_what_is_expected_of_it() -> None:
    """Run the long-mode program in this process, without its port accesses and its halt."""

    def runs() -> bool:
        libc = ctypes.CDLL(None, use_errno=True)
        libc.mmap.restype = ctypes.c_void_p
        fixed = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x10
        place = ctypes.c_void_p(kvm._DATA)
        size = ctypes.c_size_t(kvm.STEPS * 8)
        got = libc.mmap(place, size, mmap.PROT_READ | mmap.PROT_WRITE, fixed, -1, ctypes.c_long(0))
        assert got == kvm._DATA
        body = kvm.code64(7, trap=False).replace(b"\xe7\x10", b"\x90\x90")
        assert body.endswith(b"\xf4")
        everything = mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC
        area = mmap.mmap(-1, mmap.PAGESIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, everything)
        code = b"\x53\x57" + body[:-1] + b"\x5f\x5b\xc3"  # rbx and rdi are kept; ret
        area[: len(code)] = code
        ctypes.CFUNCTYPE(None)(ctypes.addressof(ctypes.c_char.from_buffer(area)))()
        sums = struct.unpack(f"{kvm.STEPS}Q", ctypes.string_at(kvm._DATA, kvm.STEPS * 8))
        return sums == tuple((i + 1) * 7 for i in range(kvm.STEPS))

    assert process.in_child(runs, 20.0) is True


def everything_works() -> dict[str, Finding]:
    return {name: Finding(name, Outcome.WORKS, "it does") for name in NAMES}


def verdict_with(**outcomes: Outcome) -> report.Verdict:
    findings = everything_works()
    for name, outcome in outcomes.items():
        key = name.replace("_", "-")
        findings[key] = Finding(key, outcome, "so")
    return report.verdict(list(findings.values()))


def test_verdict() -> None:
    assert verdict_with().ok
    assert "engine kvm; there is also uml, seccomp mode and tcg" in verdict_with().sentence
    none = verdict_with(kvm=Outcome.FAILS, tcg=Outcome.FAILS)
    assert none.sentence.endswith("(engine uml, seccomp mode).")
    assert "ptrace mode" in verdict_with(uml_seccomp=Outcome.FAILS).sentence
    assert "without a network" in verdict_with(passt=Outcome.FAILS).sentence
    for harmless in ("kvm", "tcg", "landlock", "user_namespaces", "passt", "store", "uml_ptrace"):
        assert verdict_with(**{harmless: Outcome.FAILS}).ok
    for needed in ("kit", "exec_memory", "memory", "runtime"):
        bad = verdict_with(**{needed: Outcome.FAILS})
        assert not bad.ok
        assert needed.replace("_", "-") in bad.sentence
    no_uml = {"uml_seccomp": Outcome.FAILS, "uml_ptrace": Outcome.UNKNOWN}
    assert verdict_with(**no_uml, kvm=Outcome.FAILS).sentence.endswith("(engine tcg).")
    bad = verdict_with(**no_uml, kvm=Outcome.FAILS, tcg=Outcome.FAILS)
    assert not bad.ok


def test_verdict_over_named_probes() -> None:
    good, bad = Finding("kvm", Outcome.LIMITED, ""), Finding("disk", Outcome.FAILS, "")
    assert report.verdict([good], named=True).ok
    assert not report.verdict([good, bad], named=True).ok


@given(st.integers(20, 200), st.text(max_size=300), st.text(max_size=60))
def test_the_table_keeps_to_its_width(width: int, found: str, advice: str) -> None:
    one = Finding("user-namespaces", Outcome.LIMITED, found, "some meaning", advice)
    text = report.table([one], report.Verdict(True, "It works."), width)
    left = len("user-namespaces") + len("limited") + 4
    assert all(len(line) <= max(width, left + 24) for line in text.split("\n"))
    assert text.replace("\n", "").isprintable()
    assert text.endswith("It works.")


def test_as_json_has_everything() -> None:
    findings = [Finding("kvm", Outcome.FAILS, "f", "m", "a", {"n": 1})]
    data = json.loads(json.dumps(report.as_json(findings, report.Verdict(False, "No."))))
    assert data == {
        "schema": 1,
        "ok": False,
        "verdict": "No.",
        "findings": [
            {
                "name": "kvm",
                "outcome": "fails",
                "found": "f",
                "meaning": "m",
                "advice": "a",
                "details": {"n": 1},
            }
        ],
    }


def test_probes_leave_nothing_open() -> None:
    before = set(os.listdir("/proc/self/fd"))
    for name in finding.QUICK:
        finding.examine(name, quick=True)
    assert set(os.listdir("/proc/self/fd")) == before
