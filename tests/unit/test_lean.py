"""apppot.lean.dataclass behaves as the library's, which is the yardstick in every test here."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apppot import lean


def make(dataclass: Any, field: Any, *, frozen: bool) -> Any:
    @dataclass(frozen=frozen)
    class Thing:
        """A thing."""

        first: int
        second: str
        third: tuple[int, ...] = ()
        fourth: list[int] = field(default_factory=list)

        @property
        def double(self) -> int:
            return 2 * self.first

    return Thing


@lean.dataclass(frozen=True)
class Pair:
    left: int
    right: str = "r"


@lean.dataclass(frozen=True)
class Triple(Pair):
    third: float = 0.5


KINDS = {
    frozen: (
        make(lean.dataclass, lean.field, frozen=frozen),
        make(dataclasses.dataclass, dataclasses.field, frozen=frozen),
    )
    for frozen in (True, False)
}
VALUES = st.one_of(st.integers(), st.text(), st.tuples(st.integers()), st.lists(st.integers()))
NAMES = ("first", "second", "third", "fourth", "fifth")


def attempt(function: Any) -> Any:
    try:
        return function()
    except Exception as error:  # noqa: BLE001  its class is what is compared
        return type(error)


@given(
    st.booleans(),
    st.lists(VALUES, max_size=5),
    st.dictionaries(st.sampled_from(NAMES), VALUES),
)
def test_same_objects_and_same_refusals(
    frozen: bool, values: list[Any], named: dict[str, Any]
) -> None:
    ours, theirs = (attempt(lambda kind=kind: kind(*values, **named)) for kind in KINDS[frozen])
    if isinstance(theirs, type):
        assert ours is theirs is TypeError
        return
    assert repr(ours) == repr(theirs)
    assert vars(ours) == vars(theirs)
    assert attempt(lambda: hash(ours)) == attempt(lambda: hash(theirs))
    assert ours == copy.copy(ours)
    assert ours != theirs
    assert dataclasses.asdict(ours) == dataclasses.asdict(theirs)
    changed = [attempt(lambda one=one: dataclasses.replace(one, first=7)) for one in (ours, theirs)]
    assert vars(changed[0]) == vars(changed[1])
    set_first = [attempt(lambda one=one: setattr(one, "first", 7)) for one in (ours, theirs)]
    assert set_first[0] is set_first[1]
    assert vars(ours) == vars(theirs)


@given(st.lists(VALUES, min_size=2, max_size=4), st.lists(VALUES, min_size=2, max_size=4))
def test_equality(one: list[Any], other: list[Any]) -> None:
    ours, theirs = KINDS[True]
    assert (ours(*one) == ours(*other)) is (theirs(*one) == theirs(*other))
    assert ours(*one) == ours(*one)
    assert (ours(*one) == one) is False


def test_a_factory_makes_a_new_value_each_time() -> None:
    ours, _ = KINDS[True]
    assert ours(1, "").fourth is not ours(1, "").fourth


def test_inherited_fields_come_first() -> None:
    assert Triple(1, third=2.0) == Triple(1, "r", 2.0)
    assert Triple(1) != Pair(1)
    assert [field.name for field in dataclasses.fields(Triple)] == ["left", "right", "third"]


def test_objects_can_be_pickled_and_matched() -> None:
    thing = Pair(3, "x")
    assert pickle.loads(pickle.dumps(thing)) == thing
    match thing:
        case Pair(left, right):
            assert (left, right) == (3, "x")


def test_frozen_objects_lose_no_field() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        del Pair(1).left


def test_a_default_that_can_be_changed_is_refused() -> None:
    with pytest.raises(ValueError, match="could be changed"):

        @lean.dataclass(frozen=True)
        class Wrong:
            names: list[str] = []  # noqa: RUF012


def test_the_way_to_run_loads_none_of_what_is_slow() -> None:
    """A module in this list costs more than it gives there; see docs/reference/benchmarks.md."""
    slow = "dataclasses inspect typing subprocess tempfile random pathlib shutil socket logging"
    code = (
        "import sys, apppot.__main__, apppot.cli.parser as p, apppot.run, apppot.machine.uml\n"
        "import apppot.machine.probes, apppot.kit\n"
        "p.parse(['run', 'image', '--', 'true'])\n"
        f"print(*sorted(set({slow.split()!r}) & set(sys.modules)))\n"
    )
    # -S: what the site's packages load at every start is not ours.
    command = [sys.executable, "-S", "-c", f"import sys; sys.path[:] = {sys.path!r}\n{code}"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
