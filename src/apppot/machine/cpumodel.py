"""The host's processor, and what of it a guest sees: all, or a level of the x86-64 psABI.

A saved machine goes on elsewhere if the processor there has its level.
"""

from __future__ import annotations

from enum import StrEnum

from apppot.errors import MachineError
from apppot.lean import dataclass

# What each level has, as /proc/cpuinfo and QEMU call it.
_V2 = {
    "cx16": "cx16",
    "lahf_lm": "lahf-lm",
    "popcnt": "popcnt",
    "ssse3": "ssse3",
    "sse4_1": "sse4.1",
    "sse4_2": "sse4.2",
}
_V3 = {
    name: name
    for name in (
        *("xsave", "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe"),
        # Not in the psABI's level, but in every processor that has it.
        *("aes", "pclmulqdq", "rdrand", "fsgsbase", "rdtscp"),
    )
}


class CpuModel(StrEnum):
    """What a guest may use of its processor."""

    V2 = "x86-64-v2"
    V3 = "x86-64-v3"


_LIKE_AMD = ("AuthenticAMD", "HygonGenuine")
# Translators know these by their version, or not at all.
_NOT_TRANSLATED = ("pcid", "invpcid", "tsc-deadline", "x2apic")
_FEATURES = {CpuModel.V2: _V2, CpuModel.V3: _V2 | _V3}


@dataclass(frozen=True)
class Processor:
    """The host's processor, as far as a guest under KVM sees it."""

    vendor: str = ""
    flags: frozenset[str] = frozenset()
    counter_speed: int = 0  # of the time stamp counter, in kHz; 0 if that is not certain


def qemu_model(model: CpuModel, vendor: str) -> str:
    """Return what QEMU is told; it starts nothing that cannot have all of it.

    Under KVM the guest sees the processor's vendor, '' means that instructions are translated. Of
    the third level are the oldest processors of each vendor that have it.
    """
    if model is CpuModel.V2:
        words = ["qemu64", "-svm", *(f"+{name}" for name in _FEATURES[model].values())]
    elif vendor:
        words = ["EPYC" if vendor in _LIKE_AMD else "Haswell-noTSX"]
    else:
        words = ["Haswell-noTSX", *(f"-{name}" for name in _NOT_TRANSLATED)]
    return ",".join([*words, "enforce"])


def missing(model: CpuModel, processor: Processor) -> list[str]:
    """Return what a processor does not have of a model."""
    return [name for name in _FEATURES[model] if name not in processor.flags]


def best(processor: Processor) -> CpuModel:
    """Return the highest model that a processor has all of; raises MachineError."""
    for model in reversed(CpuModel):
        if not missing(model, processor):
            return model
    raise MachineError(
        f"this processor has less than {CpuModel.V2}: {', '.join(missing(CpuModel.V2, processor))}",
        hint="a machine on it cannot be saved under kvm; under --engine tcg it can",
    )


def processor(path: str = "/proc/cpuinfo") -> Processor:
    """Return the host's processor, as far as the host tells it."""
    found = {}
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for line in file:
                name, _, value = line.partition(":")
                found[name.strip()] = value.strip()
                if name == "\n":
                    break
    except OSError:
        return Processor()
    flags = frozenset(found.get("flags", "").split())
    speed = _counter_speed(flags, found.get("bogomips", ""))
    return Processor(found.get("vendor_id", ""), flags, speed)


def _counter_speed(flags: frozenset[str], bogomips: str) -> int:
    # Linux counts its delays in the counter's own steps; bogomips is twice their number, in MHz.
    if not {"constant_tsc", "nonstop_tsc"} <= flags:
        return 0  # its speed changes, or this is no Linux that tells it
    try:
        return round(float(bogomips) * 500)
    except ValueError:
        return 0
