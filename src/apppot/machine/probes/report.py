"""Findings as text and as JSON, and the verdict over all of them."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any, NamedTuple

from apppot.machine.probes.finding import Finding, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

SCHEMA = 1
_GAP = 2
_NARROWEST = 24
# Without these no machine starts, whatever else works.
_NEEDED = ("kit", "exec-memory", "memory", "runtime", "processes", "python")
_USABLE = (Outcome.WORKS, Outcome.LIMITED)


class Verdict(NamedTuple):
    """Whether runs will work, in one sentence."""

    ok: bool
    sentence: str


def verdict(findings: Sequence[Finding], *, named: bool = False) -> Verdict:
    """Return whether `apppot run` will work; of `named` probes, whether none of them failed."""
    outcomes = {finding.name: finding.outcome for finding in findings}
    failed = [name for name, outcome in outcomes.items() if outcome not in _USABLE]
    if named:
        if failed:
            return Verdict(False, f"Not working: {', '.join(failed)}.")
        return Verdict(True, "All that was tried works.")
    engines = list(_engines(outcomes))
    lacking = [name for name in _NEEDED if name in failed]
    if not engines:
        lacking.append("both modes of the engine uml, kvm and tcg")
    if lacking:
        what = ", ".join(lacking)
        return Verdict(False, f"'apppot run' will not work on this computer because of: {what}.")
    sentence = f"'apppot run' works on this computer (engine {engines[0]}"
    if len(engines) > 1:
        sentence += f"; there is also {' and '.join(engines[1:])}"
    sentence += ")"
    if "passt" in failed:
        sentence += ", but without a network"
    return Verdict(True, f"{sentence}.")


def _engines(outcomes: dict[str, Outcome]) -> Iterator[str]:
    """Yield the engines that work, the one that is taken first."""
    modes = [mode for mode in ("seccomp", "ptrace") if outcomes.get(f"uml-{mode}") in _USABLE]
    if outcomes.get("kvm") in _USABLE:
        yield "kvm"
    if modes:
        yield f"uml, {modes[0]} mode"
    if outcomes.get("tcg") in _USABLE:
        yield "tcg"


def as_json(findings: Sequence[Finding], verdict: Verdict) -> dict[str, Any]:
    """Return everything as plain data."""
    return {
        "schema": SCHEMA,
        "ok": verdict.ok,
        "verdict": verdict.sentence,
        "findings": [finding.as_dict() for finding in findings],
    }


def table(findings: Sequence[Finding], verdict: Verdict, width: int) -> str:
    """Return the findings as text no wider than `width`, with the verdict at the end."""
    names = max(len(finding.name) for finding in findings) + _GAP
    outcomes = max(len(finding.outcome) for finding in findings) + _GAP
    left = names + outcomes
    lines = []
    for finding in findings:
        head = f"{finding.name:{names}}{finding.outcome:{outcomes}}"
        body = _paragraphs(finding, max(_NARROWEST, width - left))
        lines.append(f"{head}{body[0]}".rstrip())
        lines += [" " * left + line for line in body[1:]]
    return "\n".join([*lines, "", *textwrap.wrap(verdict.sentence, max(_NARROWEST, width))])


def _paragraphs(finding: Finding, width: int) -> list[str]:
    """Return what was seen, what it means, and what to do, each wrapped to `width`."""
    lines = _wrap(_printable(finding.found), width)
    if finding.meaning:
        lines += _wrap(f"{_printable(finding.meaning)}", width)
    if finding.advice:
        lines += _wrap(f"-> {_printable(finding.advice)}", width)
    return lines


def _wrap(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_on_hyphens=False) or [""]


def _printable(text: str) -> str:
    """Return `text` without what a terminal would obey: it may come from a guest's console."""
    return "".join(char if char.isprintable() else " " for char in text)
