"""The command line's grammar: what is ours and what is the payload's."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apppot.cli import VERBS
from apppot.cli.parser import parse, split_command, usage, verb_parser
from apppot.errors import UsageError

_, RUN = verb_parser("run")
PAYLOAD = st.lists(st.text(max_size=10) | st.sampled_from(["--", "-x", "--memory", "-t", "", "-"]))
OPTIONS = st.lists(
    st.sampled_from(
        [
            ["-t"],
            ["-v"],
            ["--memory", "1G"],
            ["--memory=1G"],
            ["-e", "A=-x"],
            ["-eA=1"],
            ["--env", "A=--"],
            ["-tv"],
            ["-tu", "root"],
            ["-uroot"],
            ["--no-job-dir"],
            ["--user", "root"],
        ]
    )
).map(lambda groups: [word for group in groups for word in group])


@given(OPTIONS, PAYLOAD)
def test_the_payload_is_what_follows_the_separator(own: list[str], payload: list[str]) -> None:
    assert split_command(RUN, [*own, "image", "--", *payload]) == ([*own, "image"], payload)


@given(OPTIONS, PAYLOAD.filter(lambda words: words[:1] != ["--"]))
def test_the_separator_may_be_left_out(own: list[str], payload: list[str]) -> None:
    assert split_command(RUN, [*own, "image", *payload]) == ([*own, "image"], payload)


@given(OPTIONS, PAYLOAD)
def test_a_separator_before_the_image(own: list[str], payload: list[str]) -> None:
    found = split_command(RUN, [*own, "--", "image", "--", *payload])
    assert found == ([*own, "--", "image"], payload)


@given(PAYLOAD)
def test_nothing_is_lost(words: list[str]) -> None:
    own, command = split_command(RUN, words)
    assert own + command in (words, [w for n, w in enumerate(words) if n != len(own)])


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_a_parser_with_help(verb: str) -> None:
    module, parser = verb_parser(verb)
    assert callable(module.main)
    assert parser.format_help()
    assert verb in usage()


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ([], "--help"),
        (["rnu"], "'run'"),
        (["zzzz"], "--help"),
        (["run"], "run --help"),
        (["run", "--mem", "1G", "image"], "run --help"),  # no abbreviations
    ],
)
def test_usage_errors(words: list[str], hint: str) -> None:
    with pytest.raises(UsageError) as raised:
        parse(words)
    assert hint in raised.value.hint
