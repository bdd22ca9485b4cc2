"""Which engine a run takes, and what is remembered about KVM."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest

from apppot import config, kit
from apppot.errors import KitError, MachineError, UsageError
from apppot.machine import choice, probes, virtual
from apppot.machine.choice import choose
from apppot.machine.model import EngineName, UmlMode
from apppot.machine.probes import kvm, pc, remembered
from apppot.machine.probes.finding import Finding, Outcome

if TYPE_CHECKING:
    from pathlib import Path


class Host:
    """What works on a host, and what has been tried there."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self._patch = patch
        self.uml(probes.Mode.SECCOMP)
        self.kvm("")
        self.qemu("")

    def uml(self, mode: probes.Mode) -> None:
        known = SimpleNamespace(mode=mode, reason=f"about {mode}")
        self._patch.setattr(probes, "uml_mode", lambda: known)

    def kvm(self, reason: str) -> None:
        answer = virtual.Answer(bool(reason), reason or "nothing behind it")
        self._patch.setattr(virtual, "kvm", lambda **_: answer)

    def qemu(self, problem: str) -> None:
        self._patch.setattr(virtual, "problem", lambda: problem)


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    monkeypatch.delenv("APPPOT_ENGINE", raising=False)
    return Host(monkeypatch)


def test_kvm_first_then_uml_then_tcg(host: Host) -> None:
    assert str(choose()) == "engine uml, seccomp mode: about seccomp"
    host.kvm("it booted")
    assert str(choose()) == "engine kvm: it booted"
    host.kvm("")
    host.uml(probes.Mode.NONE)
    found = choose()
    assert found.name is EngineName.TCG
    assert "about none" in found.reason


def test_nothing_works(host: Host) -> None:
    host.uml(probes.Mode.NONE)
    host.qemu("QEMU is not installed")
    with pytest.raises(MachineError, match="does not boot here: about none"):
        choose()


def test_an_engine_that_was_named_is_never_replaced(host: Host) -> None:
    host.kvm("it booted")
    assert choose(EngineName.UML).name is EngineName.UML
    assert choose(EngineName.TCG).name is EngineName.TCG
    assert choose(EngineName.KVM).name is EngineName.KVM
    host.kvm("")
    with pytest.raises(MachineError, match="kvm does not work here: nothing behind it"):
        choose(EngineName.KVM)
    host.uml(probes.Mode.NONE)
    with pytest.raises(MachineError, match="User-Mode Linux does not boot"):
        choose(EngineName.UML)


def test_the_setting_decides_where_no_option_does(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APPPOT_ENGINE", "tcg")
    assert choose().name is EngineName.TCG
    assert choose(EngineName.UML).name is EngineName.UML
    monkeypatch.setenv("APPPOT_ENGINE", "magic")
    with pytest.raises(UsageError, match="magic"):
        choose()
    assert config.text("run.memory")


@pytest.mark.usefixtures("host")
def test_a_mode_of_uml_is_umls() -> None:
    assert choose(None, UmlMode.PTRACE) == choice.Choice(
        EngineName.UML, "its mode was asked for", UmlMode.PTRACE
    )
    with pytest.raises(UsageError, match="--uml-mode ptrace is for User-Mode Linux"):
        choose(EngineName.KVM, UmlMode.PTRACE)


class Kvm:
    """A host with QEMU, a kit and a device; counts how often KVM is tried."""

    def __init__(self, tmp_path: Path, patch: pytest.MonkeyPatch) -> None:
        for name in ("qemu", "device", "boot/bzImage", "boot/agent.cpio"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(name)
        self.qemu = tmp_path / "qemu"
        self.device = tmp_path / "device"
        self.tries = 0
        self.outcome = Outcome.WORKS
        self.hardware = True
        patch.setenv("APPPOT_CACHE", str(tmp_path / "cache"))
        patch.setattr(virtual, "DEVICE", str(self.device))
        patch.setattr(virtual, "program", lambda: str(self.qemu))
        patch.setattr(kit, "find", lambda: kit.Kit(str(tmp_path)))
        patch.setattr(kvm, "backend", lambda: {"hardware": self.hardware})
        patch.setattr(pc, "kvm", self._try)

    def _try(self, _: kit.Kit) -> Finding:
        self.tries += 1
        return Finding("kvm", self.outcome, "what\twas found")


@pytest.fixture
def on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Kvm:
    return Kvm(tmp_path, monkeypatch)


def test_kvm_is_tried_once(on: Kvm) -> None:
    assert virtual.kvm() == virtual.Answer(True, "what\twas found")
    assert virtual.kvm() == virtual.Answer(True, "what was found")
    assert on.tries == 1
    os.utime(on.qemu, ns=(1, 1))
    assert virtual.kvm().works
    assert on.tries == 2
    remembered.forget()
    assert virtual.kvm().works
    assert on.tries == 3


def test_a_failure_is_remembered_too(on: Kvm) -> None:
    on.outcome = Outcome.FAILS
    assert not virtual.kvm().works
    assert not virtual.kvm(thorough=True).works
    assert on.tries == 1


def test_without_hardware_it_is_tried_only_if_it_was_asked_for(on: Kvm) -> None:
    on.hardware = False
    assert "no vmx or svm" in virtual.kvm().why
    assert on.tries == 0
    assert virtual.kvm(thorough=True).works
    assert virtual.kvm().works
    assert on.tries == 1


def test_without_device_qemu_or_kernel_there_is_no_kvm(
    on: Kvm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on.device.unlink()
    assert "No such file" in virtual.kvm(thorough=True).why
    on.device.touch()
    (tmp_path / "boot/bzImage").unlink()
    assert "bzImage" in virtual.kvm(thorough=True).why
    assert "bzImage" in virtual.problem()
    (tmp_path / "boot/bzImage").touch()
    assert virtual.problem() == ""

    def absent() -> str:
        raise MachineError("QEMU is not installed")

    monkeypatch.setattr(virtual, "program", absent)
    assert virtual.kvm(thorough=True) == virtual.Answer(False, "QEMU is not installed")
    assert virtual.problem() == "QEMU is not installed"
    assert on.tries == 0


def test_without_a_kit_there_is_no_kvm(on: Kvm, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent() -> kit.Kit:
        raise KitError("there is no kit")

    monkeypatch.setattr(kit, "find", absent)
    assert virtual.kvm().why == "there is no kit"
    assert on.tries == 0
