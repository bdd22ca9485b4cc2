"""Probe the engines that run a PC: kvm and tcg, by booting the kit's PC kernel under QEMU."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from apppot import kit as kits
from apppot import process
from apppot.errors import AppPotError
from apppot.machine import virtual
from apppot.machine.probes import boot
from apppot.machine.probes import kvm as device
from apppot.machine.probes.finding import Finding, Outcome
from apppot.machine.qemu import Accelerator

if TYPE_CHECKING:
    from apppot.kit import Kit

__all__ = ["Outcome", "kvm", "tcg"]

_DEADLINES = {Accelerator.KVM: 10.0, Accelerator.TCG: 30.0}
_PATIENCE = 10.0
_ADVICE = "none needed where another engine works; 'apppot doctor --json' has the console"


def kvm(kit: Kit | None = None) -> Finding:
    """Run and time guest code on /dev/kvm; then boot a kernel under QEMU with it."""
    found = device.kvm()
    if found.outcome is not Outcome.WORKS:
        return found
    booted = _boot(Accelerator.KVM, kit)
    return replace(booted, details=found.details | booted.details)


def tcg(kit: Kit | None = None) -> Finding:
    """Boot a kernel under QEMU without any virtualization."""
    return _boot(Accelerator.TCG, kit)


def _boot(accelerator: Accelerator, kit: Kit | None) -> Finding:
    name = str(accelerator)
    without = f"the engine {name} cannot run appliances"
    try:
        kit = kit or kits.find()
        path = virtual.program()
        said = process.run([path, "--version"], timeout=_PATIENCE).stdout.decode("utf-8", "replace")
        done = boot.boot_pc(kit, accelerator, deadline=_DEADLINES[accelerator])
    except AppPotError as error:
        return Finding(name, Outcome.FAILS, error.message, without, error.hint)
    version = next(iter(said.splitlines()), "").removeprefix("QEMU emulator version ")
    details = {"qemu": path, "version": version, "seconds": round(done.seconds, 3)}
    if done.ok:
        found = f"a kernel booted under QEMU {version.split('(')[0].strip()}: {done.why}"
        meaning = {
            Accelerator.KVM: "the engine kvm can run appliances",
            Accelerator.TCG: "the engine tcg can run appliances, ten times slower than others",
        }[accelerator]
        return Finding(name, Outcome.WORKS, found, meaning, "", details)
    details["console"] = done.console
    return Finding(name, Outcome.FAILS, done.why, without, _ADVICE, details)
