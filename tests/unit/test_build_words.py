"""Variables and quotes in a Containerfile's words."""

from __future__ import annotations

import contextlib
import shutil
import subprocess

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apppot.image.build.words import WordError, expand, expand_raw

VARIABLES = {"a": "1", "empty": "", "path": "/usr/lib/x.tar.gz", "S": "x y"}


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("plain", "plain"),
        ("$a", "1"),
        ("${a}b", "1b"),
        ("$ab", ""),
        ("$a$a", "11"),
        ("\\$a", "$a"),
        ("'$a'", "$a"),
        ('"$a"', "1"),
        ('"\\$a"', "$a"),
        ('"it\'s"', "it's"),
        ("a\\ b", "a b"),
        ('"a\\b"', "a\\b"),
        ('"a\\"b"', 'a"b'),
        ("$S", "x y"),
        ("${none:-$a}", "1"),
        ("${none-d}", "d"),
        ("${empty-d}", ""),
        ("${empty:-d}", "d"),
        ("${a:-d}", "1"),
        ("${a:+y}", "y"),
        ("${empty:+y}", ""),
        ("${empty+y}", "y"),
        ("${none+y}", ""),
        ("${none:-${empty:-deep}}", "deep"),
        ("${none:-'}'}", "}"),
        ("${path#*/}", "usr/lib/x.tar.gz"),
        ("${path##*/}", "x.tar.gz"),
        ("${path%.*}", "/usr/lib/x.tar"),
        ("${path%%.*}", "/usr/lib/x"),
        ("${path/lib/LIB}", "/usr/LIB/x.tar.gz"),
        ("${path//r/R}", "/usR/lib/x.taR.gz"),
        ("$", "$"),
        ("a$", "a$"),
        ("$/", "$/"),
        ("$1x", "x"),
        ("", ""),
    ],
)
def test_expansion(text: str, wanted: str) -> None:
    assert expand(text, VARIABLES) == wanted


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("${a", "no closing }"),
        ("${", "no closing }"),
        ("${}", "no variable"),
        ("${a!x}", "not known"),
        ("${none:?must be there}", "must be there"),
        ("${none?}", "is not set"),
        ("'a", "single quote"),
        ('"a', "double quote"),
        ("${a:-'x}", "no closing"),
    ],
)
def test_errors(text: str, reason: str) -> None:
    with pytest.raises(WordError, match=reason):
        expand(text, VARIABLES)


def test_another_escape() -> None:
    assert expand("C:\\dir`$a$a", VARIABLES, "`") == "C:\\dir$a1"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [("'$a' \"$a\" \\n \\$a", "'1' \"1\" \\n $a"), ("it's", "it's"), ("\\\\", "\\")],
)
def test_heredocs_keep_quotes(text: str, wanted: str) -> None:
    assert expand_raw(text, VARIABLES) == wanted


@given(st.text())
def test_any_text_gives_a_text_or_a_reason(text: str) -> None:
    for call in (expand, expand_raw):
        with contextlib.suppress(WordError):
            assert isinstance(call(text, VARIABLES), str)


@given(st.text(alphabet="abc /.-_=,:"))
def test_what_is_not_special_stays(text: str) -> None:
    assert expand(text, VARIABLES) == text
    assert expand(f"'{text}'", VARIABLES) == text
    assert expand(f'"{text}"', VARIABLES) == text


_PIECES = st.sampled_from(
    ["$a", "${a}", "${a:-x}", "${none:-y}", "${none:+y}", "${a:+z}", "${empty-q}", "${empty:-q}",
     "'lit$a'", '"$S"', '"a b"', "\\$", "\\\\", "word", "-", "/", "${path##*/}", "${path%.*}"]
)  # fmt: skip


@pytest.mark.skipif(not shutil.which("dash"), reason="dash is not installed")
@settings(max_examples=60, deadline=None)
@given(st.lists(_PIECES, max_size=6))
def test_the_shell_agrees(pieces: list[str]) -> None:
    text = "".join(pieces)
    # The words of an assignment are not split, as here.
    done = subprocess.run(
        ["dash", "-c", f'value={text}\nprintf %s "$value"'],
        env=VARIABLES,
        capture_output=True,
        text=True,
        check=True,
    )
    assert expand(text, VARIABLES) == done.stdout
