"""The results that the kernel's selftests print are read as they are meant."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.kernel.plan import COLLECTIONS, commands
from tests.kernel.taps import PROGRAM, Reason, Result, differences, program, reason, results

KERNEL = Path(__file__).parent.parent / "kernel"
OUTPUT = """TAP version 13
1..6
ok 1 first
# not ok is said in a comment
not ok 2 second
ok 3 third # SKIP no such thing
ok 4 # SKIP nothing at all
not ok 5 fifth # XFAIL known
ok 6 took 12345.6 ns at 0x7f00
    ok 1 first
"""


def test_lines_are_read() -> None:
    assert results(OUTPUT, 1) == {
        PROGRAM: Result.FAILED,
        "first": Result.OK,
        "second": Result.FAILED,
        "third": Result.SKIPPED,
        "(no name)": Result.SKIPPED,
        "fifth": Result.EXPECTED,
        "took N ns at N": Result.OK,
        "first (2)": Result.OK,
    }


@pytest.mark.parametrize(
    ("status", "result"),
    [
        (0, Result.OK),
        (1, Result.FAILED),
        (4, Result.SKIPPED),
        (124, Result.TIME),
        (139, Result.DIED),
    ],
)
def test_statuses_are_read(status: int, result: Result) -> None:
    assert program(status) is result


def test_only_what_differs_is_told() -> None:
    native = {"a": Result.OK, "b": Result.OK, "c": Result.SKIPPED, "d": Result.OK}
    guest = {"a": Result.OK, "b": Result.FAILED, "e": Result.OK}
    found = differences("p", native, guest)
    assert [(each.test, each.native, each.guest) for each in found] == [
        ("b", Result.OK, Result.FAILED),
        ("d", Result.OK, Result.ABSENT),
        ("e", Result.ABSENT, Result.OK),
    ]
    known = [Reason("p", "b", "wrong", guest="ok"), Reason("p|q", "b|d", "because")]
    assert [reason(each, known) for each in found] == ["because", "because", ""]


def test_every_known_difference_can_be_met() -> None:
    """The reasons are written as they are read, and none is for a program that is not run."""
    rows = tomllib.loads((KERNEL / "differences.toml").read_text())["difference"]
    assert all(set(row) <= {"program", "test", "guest", "native", "why"} for row in rows)
    results_known = {str(each) for each in Result}
    given = {row[side] for row in rows for side in ("guest", "native") if side in row}
    assert given <= results_known


def test_commands_of_a_collection() -> None:
    (rseq,) = (each for each in COLLECTIONS if each.folder == "rseq")
    found = commands(rseq, ["basic_test", "librseq.so", "syscall_errors_test"])
    assert found["basic_test"] == "./basic_test"
    assert "librseq.so" not in found
    assert found["syscall_errors_test"].startswith("GLIBC_TUNABLES=")
