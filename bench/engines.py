"""Exec of each engine to the payload's first instruction, by the report's timeline."""

from __future__ import annotations

import json
import os
from functools import partial
from typing import TYPE_CHECKING

from bench.launch import launch
from bench.series import CaseError, Section, take_turns

if TYPE_CHECKING:
    from bench.measures import Bench

ENGINES = ("uml", "kvm", "tcg")
_STEPS = ("boot_firmware", "boot_kernel", "boot_agent", "boot_payload")


def engines(bench: Bench) -> list[Section]:
    """One machine after the other, without a network; kvm where it works."""
    section = Section(
        "Exec of the engine to the payload",
        "ms",
        note="firmware, kernel, agent and payload of the report's timeline, added up",
    )
    cases = {}
    for engine in ENGINES:
        try:
            timeline(bench, engine)
        except CaseError as error:
            section.missing[engine] = str(error)
        else:
            cases[engine] = partial(_total, bench, engine)
    take_turns(section, cases, bench.runs, bench.said)
    section.at_most("tcg", 1000)
    return [section]


def _total(bench: Bench, engine: str) -> float:
    return sum(timeline(bench, engine)) * 1000


def timeline(bench: Bench, engine: str) -> list[float]:
    """Return the seconds of each step of a boot; raises CaseError."""
    path = os.path.join(bench.work, f"report-{engine}.json")
    words = [bench.apppot, "run", "--engine", engine, "--network", "none", "--report", path]
    launch([*words, bench.image, "--", "true"], cwd=bench.share)
    with open(path, encoding="utf-8") as file:
        times = json.load(file)["times"]
    return [float(times[step]) for step in _STEPS]
