"""The shared folder of each engine beside the host's own: one large file, and many small ones."""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import TYPE_CHECKING

from apppot.machine import virtiofs
from bench import served
from bench.launch import launch
from bench.peers import NATIVE
from bench.series import CaseError, Section, take_turns_of
from bench.sides import MEMORY

if TYPE_CHECKING:
    from bench.measures import Bench

_GUESTS = (
    ("uml", "hostfs"),
    *((engine, kind) for engine in ("kvm", "tcg") for kind in served.KINDS),
)
_LARGE = 2  # steps with the large file; the others are done with each of the small ones
_SMALL = ("made", "read", "looked at", "removed")
_LAUNCHER = os.path.abspath(served.__file__)


def shares(bench: Bench) -> list[Section]:
    """Measure each case with one program, in a machine of its own."""
    size, count = (256, 2000) if bench.quick else (1024, 10000)
    note = "through the host's page cache; one machine for all steps of a turn"
    sections = [
        Section(f"{size} MiB {what} a shared folder", "s", digits=2, note=note)
        for what in ("written to", "read from")
    ]
    sections += [
        Section(f"{count} small files {what} in a shared folder, for each", "µs", note=note)
        for what in _SMALL
    ]
    amount = (str(size), str(count))
    cases = {NATIVE: partial(_steps, bench, [os.path.join(bench.share, "share")], ".", amount)}
    missing = {}
    for engine, kind in _GUESTS:
        case, words = f"{engine}: {kind}", _words(bench, engine, kind)
        try:
            _look(bench, words, kind)
        except CaseError as error:
            missing[case] = str(error)
        else:
            # A copy is run: under `tcg: virtiofs`, programs of the folder itself would crash.
            copied = ("sh", "-c", 'cp share /tmp && exec /tmp/share "$@"', "-")
            cases[case] = partial(_steps, bench, [*words, *copied], "/job", amount)
    for section in sections:
        section.baseline = NATIVE
        section.missing.update(missing)
    take_turns_of(sections, cases, max(1, bench.runs // 10), bench.said, warm=False)
    return sections


def _words(bench: Bench, engine: str, kind: str) -> list[str]:
    words = [bench.apppot] if engine == "uml" else [sys.executable, _LAUNCHER, kind]
    words += ["run", "--engine", engine, "--network", "none", "--memory", f"{MEMORY}M"]
    return [*words, bench.image, "--"]


def _look(bench: Bench, words: list[str], kind: str) -> None:
    """See that the folder is of the kind that is to be measured; raises CaseError."""
    if kind == "virtiofs":
        served.force(kind)
        if virtiofs.program(translated=True) is None:
            raise CaseError("there is no virtiofsd of 1.13 or later")
    found = launch([*words, "df", "--output=fstype", "/job"], cwd=bench.share).stdout.split()[-1]
    if found.decode() != kind:
        raise CaseError(f"the folder is {found.decode()}")


def _steps(
    bench: Bench, words: list[str], folder: str, amount: tuple[str, str]
) -> tuple[float, ...]:
    """Return the seconds for the large file, the microseconds for each of the small ones."""
    run = launch([*words, *amount, folder], cwd=bench.share)
    try:
        found = list(map(float, run.stdout.split()))
    except ValueError:
        raise CaseError(f"unexpected output {run.stdout[:80]!r}") from None
    return (*(each / 1e9 for each in found[:_LARGE]), *(each / 1e3 for each in found[_LARGE:]))
