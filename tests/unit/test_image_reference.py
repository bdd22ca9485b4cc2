"""References: what is accepted, what is refused, and how it is said."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from apppot.errors import UsageError
from apppot.image import saving
from apppot.image.reference import Reference, parse, parse_name

DIGEST = "sha256:" + "0123456789abcdef" * 4
WORD = st.from_regex(r"[a-z0-9]{1,8}", fullmatch=True)
COMPONENT = st.builds(
    lambda first, rest: first + "".join(separator + word for separator, word in rest),
    WORD,
    st.lists(st.tuples(st.sampled_from((".", "_", "__", "-", "---")), WORD), max_size=3),
)
HOST = st.sampled_from(("", "localhost/", "site.example.org:5000/", "Host:1/", "[::1]:5000/"))
TAG = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", fullmatch=True)


@given(
    host=HOST,
    components=st.lists(COMPONENT, min_size=1, max_size=4),
    tag=st.one_of(st.none(), TAG),
    digest=st.sampled_from(("", DIGEST)),
)
def test_what_is_built_by_the_grammar_is_read_back(
    host: str, components: list[str], tag: str | None, digest: str
) -> None:
    name = host + "/".join(components)
    text = name + (f":{tag}" if tag is not None else "") + (f"@{digest}" if digest else "")
    if name == "sha256":
        return
    found = parse(text)
    assert (found.name, found.tag, found.digest) == (name, tag or "latest", digest)
    again = parse(str(found))
    assert (again.name, again.tag, again.digest) == (found.name, found.tag, found.digest)


@given(text=st.text(max_size=300))
@example("debian:")
@example("debian:bookworm\n")
@example("DEBIAN")
@example("a//b")
@example("/a")
@example("a/")
@example("../../etc/passwd")
@example("a:b:c")
@example("a@b")
@example(f"a@{DIGEST.upper()}")
@example("x" * 256)
@example("é")
@example("-a")
@example("a/-b:c")
def test_anything_else_is_an_error_of_the_user_or_a_safe_name(text: str) -> None:
    refused: UsageError | None = None
    try:
        found = parse(text)
    except UsageError as error:
        refused = error
    if refused:
        assert "does not name an image" in refused.message
        assert refused.hint
        return
    assert set(found.full + found.prefix) <= set(
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/:[]"
    )
    assert ".." not in found.name.split("/")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("debian", Reference("debian", "latest")),
        ("debian:12", Reference("debian", "12")),
        ("h:5000/a", Reference("h:5000/a", "latest")),
        (f"a@{DIGEST}", Reference("a", "latest", DIGEST)),
        ("deadbeef", Reference("deadbeef", "latest", prefix="deadbeef")),
        ("deadbee", Reference("deadbee", "latest")),
        ("sha256:deadbeef", Reference("", "", prefix="deadbeef")),
        (DIGEST, Reference("", "", prefix=DIGEST[7:])),
    ],
)
def test_forms(text: str, expected: Reference) -> None:
    assert parse(text) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the name is empty"),
        (":tag", "the name is empty"),
        ("Debian", "try 'debian'"),
        ("a b", "lower-case letters"),
        ("a:", "the tag ''"),
        ("a:b/c:", "the tag ''"),
        ("a/b:" + "t" * 129, "1 to 128"),
        ("a//b", "a part is empty"),
        ("sha256:abc", "8 to 64"),
        ("a@sha256:12345678", "64 hexadecimal"),
        ("a@md5:12345678", "64 hexadecimal"),
    ],
)
def test_problems_are_named(text: str, problem: str) -> None:
    with pytest.raises(UsageError, match=problem):
        parse(text)


@pytest.mark.parametrize("text", [DIGEST, f"a@{DIGEST}", "sha256:deadbeef"])
def test_a_new_image_gets_no_digest(text: str) -> None:
    with pytest.raises(UsageError, match="not a digest"):
        parse_name(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("./disk.img", "path of a file"),
        ("/images/disk.img", "path of a file"),
        ("docker://host:5000/a:1", "leave 'docker://' out: host:5000/a:1"),
        ("https://host/a", "leave 'https://' out"),
    ],
)
def test_what_was_meant_is_said(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=re.escape(said)):
        parse(text)


def test_changes_of_a_disk_are_no_image() -> None:
    with (
        pytest.raises(UsageError, match=r"disk image \./x\.img cannot be saved"),
        saving.place(saving.Wanted("new:1"), "./x.img"),
    ):
        pass
