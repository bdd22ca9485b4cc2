"""Probes: try what this computer lets us do, and say what was found. Light to import."""

from __future__ import annotations

from apppot.machine.probes.finding import NAMES, QUICK, Finding, Outcome, examine
from apppot.machine.probes.mode import Mode, UmlMode, forget_uml_mode, uml_mode

__all__ = [
    "NAMES",
    "QUICK",
    "Finding",
    "Mode",
    "Outcome",
    "UmlMode",
    "examine",
    "forget_uml_mode",
    "uml_mode",
]
