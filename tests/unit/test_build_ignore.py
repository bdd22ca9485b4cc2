"""What .dockerignore leaves out: Docker's rules."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apppot.errors import UsageError
from apppot.image.build import ignore


@pytest.mark.parametrize(
    ("rules", "left_out", "kept"),
    [
        ("*.o", ["a.o"], ["a.c", "dir/a.o"]),
        ("**/*.o", ["a.o", "d/a.o", "d/e/a.o"], ["a.c"]),
        ("**", ["a", "d/e"], []),
        ("dir", ["dir", "dir/a", "dir/b/c"], ["dirx", "x/dir"]),
        ("dir/", ["dir/a"], ["a"]),
        ("/dir", ["dir/a"], ["x/dir"]),
        ("./dir/../a", ["a"], ["dir/a"]),
        ("*/temp*", ["d/temp", "d/temporary.txt"], ["temp", "d/e/temp"]),
        ("temp?", ["tempa"], ["temp", "tempab", "temp/"[:-1]]),
        ("*\n!keep", ["a", "b/c"], ["keep", "keep/x"]),
        ("*.md\n!README*.md\nREADME-secret.md", ["a.md", "README-secret.md"], ["README.md"]),
        ("*.md\nREADME-secret.md\n!README*.md", ["a.md"], ["README.md", "README-secret.md"]),
        ("# comment\n\n  a  \n", ["a"], ["# comment", "b"]),
        ("[a-c]x", ["ax", "cx"], ["dx", "/x"]),
        ("[^a]x", ["bx"], ["ax"]),
        ("\\*x", ["*x"], ["ax"]),
        ("a.c", ["a.c"], ["abc"]),
        ("a/**/z", ["a/z", "a/b/z", "a/b/c/z"], ["a", "z"]),
        ("**/node_modules", ["node_modules/x", "a/node_modules/y/z"], ["a/node_modulesx"]),
        (".\n/", [], ["a", "b/c"]),
        ("\ufeffa", ["a"], []),
        ("a\r\nb\r\n", ["a", "b"], []),
        ("docs\n!docs/keep/**", ["docs/x", "docs/keepx"], ["docs/keep/a", "docs/keep/b/c"]),
    ],
)
def test_rules(rules: str, left_out: list[str], kept: list[str]) -> None:
    parsed = ignore.parse(rules)
    assert [path for path in left_out if not parsed.ignores(path)] == []
    assert [path for path in kept if parsed.ignores(path)] == []


@pytest.mark.parametrize("text", ["a\n[b", "a\n!"])
def test_errors_name_the_line(text: str) -> None:
    with pytest.raises(UsageError, match=r"\.dockerignore:2: "):
        ignore.parse(text)


@given(st.text())
def test_any_text_is_rules_or_an_error(text: str) -> None:
    try:
        found = str(ignore.parse(text).ignores("some/path"))
    except UsageError as error:
        found = error.message
    assert found in ("True", "False") or found.startswith(".dockerignore:")


_NAME = st.text(alphabet="ab.*", min_size=1, max_size=3)


@given(st.lists(st.tuples(st.booleans(), _NAME), max_size=5), _NAME, _NAME)
def test_what_is_below_a_folder_follows_it(
    lines: list[tuple[bool, str]], folder: str, name: str
) -> None:
    rules = ignore.parse("\n".join(("!" if keep else "") + text for keep, text in lines))
    # Without a slash in them, rules speak of the first part of a path alone.
    assert rules.ignores(f"{folder}/{name}") == rules.ignores(folder) or "**" in str(lines)
