"""Which CPUs a machine gets."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from apppot.machine.placement import choose, idle_ticks, least_busy

CPUS = st.lists(st.integers(0, 500), min_size=1, max_size=40, unique=True)


@given(CPUS, st.integers(1, 64))
def test_choose_takes_as_many_as_there_are(allowed: list[int], count: int) -> None:
    found = choose(allowed, count)
    assert len(found) == min(count, len(allowed))
    assert len(set(found)) == len(found)
    assert set(found) <= set(allowed)


def test_choose_spreads() -> None:
    assert {choose(range(4), 1) for _ in range(500)} == {(0,), (1,), (2,), (3,)}


def test_least_busy() -> None:
    before, after = {0: 0, 1: 0, 2: 0}, {0: 10, 1: 100, 2: 90}
    assert least_busy((0, 1, 2), 1, before, after, 100) == (1,)
    assert least_busy((0, 1, 2), 2, before, after, 100) == (1, 2)
    assert least_busy((0, 1, 2), 3, before, after, 100) is None  # the third is busy
    assert least_busy((0, 2), 1, before, after, 100) == (2,)
    assert least_busy((7,), 1, before, after, 100) is None  # unknown: not idle


def test_idle_ticks() -> None:
    text = "cpu  9 9 9 9 9\ncpu0 1 2 3 40 5 6\ncpu12 1 2 3 70 1\nintr 5\n\n"
    assert idle_ticks(text) == {0: 45, 12: 71}
