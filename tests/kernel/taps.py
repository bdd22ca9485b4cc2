"""What the kernel's selftests printed: results by test, and how two runs differ."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class Result(StrEnum):
    """How a test ended."""

    OK = "ok"
    FAILED = "failed"
    SKIPPED = "skipped"
    EXPECTED = "failed as expected"
    TIME = "took too long"
    DIED = "ended by a signal"
    ABSENT = "not run"


# A test that is skipped on one side may have no line at all on the other.
NOT_RUN = {Result.SKIPPED, Result.ABSENT}


PROGRAM = "(the program)"  # the name under which a program's exit status is kept
_LINE = re.compile(r"\s*(not ok|ok)\b\s*(?:\d+)?[\s:-]*(.*)")
_DIRECTIVE = re.compile(r"\s*#\s*(SKIP|XFAIL|TODO|XPASS)\b.*", re.IGNORECASE)
_ADDRESS = re.compile(r"0x[0-9a-f]+|\b\d{3,}(\.\d+)?\b")
_SKIPPED, _TIMED_OUT, _KILLED = 4, (124, 137), 128


def results(output: str, status: int) -> dict[str, Result]:
    """Return the result of each test that a program's TAP output names, and of the program."""
    found: dict[str, Result] = {PROGRAM: program(status)}
    for line in output.splitlines():
        match = _LINE.fullmatch(line)
        if not match:
            continue
        directive = _DIRECTIVE.search(match[2])
        name = _ADDRESS.sub("N", _DIRECTIVE.sub("", match[2])).strip() or "(no name)"
        found[_unique(name, found)] = _result(match[1] == "ok", directive[1] if directive else "")
    return found


def program(status: int) -> Result:
    """Return what a program's exit status says."""
    if status == 0:
        return Result.OK
    if status == _SKIPPED:
        return Result.SKIPPED
    if status in _TIMED_OUT:
        return Result.TIME
    return Result.DIED if status > _KILLED else Result.FAILED


def _result(good: bool, directive: str) -> Result:
    if directive.upper() == "SKIP":
        return Result.SKIPPED
    if directive.upper() in ("XFAIL", "TODO") and not good:
        return Result.EXPECTED
    return Result.OK if good else Result.FAILED


def _unique(name: str, taken: Mapping[str, Result]) -> str:
    """Return a name that is not taken: some programs have several tests of one name."""
    number, unique = 1, name
    while unique in taken:
        number += 1
        unique = f"{name} ({number})"
    return unique


@dataclass(frozen=True)
class Difference:
    """A test that did not end in the same way here and there."""

    program: str
    test: str
    native: Result
    guest: Result


def differences(
    name: str, native: Mapping[str, Result], guest: Mapping[str, Result]
) -> list[Difference]:
    """Return the tests of one program that ended in two ways, in the order of their running."""
    tests = [*native, *(test for test in guest if test not in native)]
    pairs = ((t, native.get(t, Result.ABSENT), guest.get(t, Result.ABSENT)) for t in tests)
    return [
        Difference(name, test, ours, theirs)
        for test, ours, theirs in pairs
        if ours != theirs and not {ours, theirs} <= NOT_RUN
    ]


@dataclass(frozen=True)
class Reason:
    """Why tests may differ: regular expressions of a program and its tests, and the text."""

    program: str
    test: str
    text: str
    guest: str = ""
    native: str = ""


def reason(difference: Difference, known: Iterable[Reason]) -> str:
    """Return why a difference is there; '' if nobody knows."""
    for each in known:
        if (
            re.fullmatch(each.program, difference.program)
            and re.fullmatch(each.test, difference.test)
            and each.guest in ("", difference.guest)
            and each.native in ("", difference.native)
        ):
            return each.text
    return ""
