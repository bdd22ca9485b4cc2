"""Samples, and series in which the cases take turns, so that a busy minute hurts all alike."""

from __future__ import annotations

import statistics
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence


class CaseError(Exception):
    """A case cannot be measured; its text says why."""


class Ended(CaseError):  # noqa: N818  no error of the benchmark: what happened is the result
    """A case ends otherwise than with a number: its text says how."""


@dataclass(frozen=True)
class Sample:
    """What was measured, in the order of measuring."""

    values: tuple[float, ...]

    @property
    def median(self) -> float:
        """The middle value."""
        return statistics.median(self.values)

    @property
    def low(self) -> float:
        """The smallest value."""
        return min(self.values)

    @property
    def high(self) -> float:
        """The largest value."""
        return max(self.values)


@dataclass(frozen=True)
class Goal:
    """Something promised: its text, what was found, and whether that is enough (None: unknown)."""

    text: str
    found: str
    met: bool | None


@dataclass
class Section:
    """One measure: the samples of its cases, how a case ended, or why it was not measured."""

    title: str
    unit: str
    samples: dict[str, Sample] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    outcomes: dict[str, str] = field(default_factory=dict)  # of cases that end without a number
    goals: list[Goal] = field(default_factory=list)
    note: str = ""
    baseline: str = ""  # the case that ratios refer to
    digits: int = 1

    def median(self, case: str) -> float | None:
        """Return a case's median, None if it was not measured."""
        sample = self.samples.get(case)
        return sample.median if sample else None

    def ratio(self, case: str) -> float | None:
        """Return a case's median in terms of the baseline's."""
        base, own = self.median(self.baseline), self.median(case)
        return own / base if base and own is not None else None

    def times_baseline(self, case: str, *, most: float = 0, least_speed: float = 0) -> None:
        """Add the goal that a case takes at most `most` times what the baseline takes.

        Or, with `least_speed`, that it has at least that share of the baseline's speed.
        """
        ratio = self.ratio(case)
        text = f"{case}: at most {most:g} times {self.baseline}"
        if least_speed:
            text = f"{case}: at least {least_speed:g} of the speed of {self.baseline}"
            ratio = 1 / ratio if ratio else None
        met = None
        if ratio is not None:
            met = ratio >= least_speed if least_speed else ratio <= most
        found = "not measured" if ratio is None else f"{ratio:.2f}"
        self.goals.append(Goal(text, found, met))

    def at_most(self, case: str, limit: float) -> None:
        """Add the goal that a case's median is at most `limit`."""
        value = self.median(case)
        self.goals.append(
            Goal(
                f"{case}: at most {limit:g} {self.unit}",
                self._shown(value),
                None if value is None else value <= limit,
            )
        )

    def at_least(self, case: str, limit: float) -> None:
        """Add the goal that a case's median is at least `limit`."""
        value = self.median(case)
        self.goals.append(
            Goal(
                f"{case}: at least {limit:g} {self.unit}",
                self._shown(value),
                None if value is None else value >= limit,
            )
        )

    def _shown(self, value: float | None) -> str:
        return "not measured" if value is None else f"{value:.{self.digits}f} {self.unit}"


def take_turns(
    section: Section,
    cases: Mapping[str, Callable[[], float]],
    runs: int,
    said: Callable[[str], None] = lambda _: None,
) -> None:
    """Measure each case once for nothing, then all of them in turn, `runs` times.

    A case that fails once is dropped, with its reason; so is one that ends without a number.
    """
    take_turns_of([section], {case: _alone(each) for case, each in cases.items()}, runs, said)


def take_turns_of(
    sections: Sequence[Section],
    cases: Mapping[str, Callable[[], Sequence[float]]],
    runs: int,
    said: Callable[[str], None] = lambda _: None,
    *,
    warm: bool = True,
) -> None:
    """Do what take_turns does with cases that have a number for each of the sections.

    Without `warm` nothing is measured for nothing: for cases that take minutes.
    """
    values: dict[str, list[Sequence[float]]] = {case: [] for case in cases}
    missing: dict[str, str] = {}
    outcomes: dict[str, str] = {}
    for turn in range(-1 if warm else 0, runs):
        said(f"{sections[0].title}: {turn + 1}/{runs}")
        for case, measure in cases.items():
            if case in {*missing, *outcomes, *sections[0].missing}:
                continue
            try:
                value = measure()
            except Ended as error:
                outcomes[case] = str(error)
                continue
            except CaseError as error:
                missing[case] = str(error)
                continue
            if turn >= 0:
                values[case].append(value)
    for n, section in enumerate(sections):
        section.missing.update(missing)
        section.outcomes.update(outcomes)
        for case, found in values.items():
            if case not in section.missing and case not in outcomes and found:
                section.samples[case] = Sample(tuple(each[n] for each in found))


def _alone(measure: Callable[[], float]) -> Callable[[], Sequence[float]]:
    return lambda: (measure(),)
