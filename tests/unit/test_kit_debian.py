"""Debian versions, control files, and the choice of a version."""

from __future__ import annotations

import itertools
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apppot.kit import debian
from apppot.kit.debian import Candidate

ORDERED = [
    *(
        "0.0~git20230309.7c7625d-1",
        "0.0~git20250503.587980c-2",
        "0.0~git20250503.587980c-2+deb13u1",
    ),
    *("0.0~git20260728.f8df3f1-1~bpo13+1", "0.0~git20260728.f8df3f1-1"),
    *("1.0~rc1-1", "1.0-1", "1.0+dfsg-1", "1.0.1-1", "1.9-1", "1.10-1", "7.2.12-1~bpo13+1"),
    *("7.3.4-1~bpo13+1", "7.3.4-1", "7.3.10-1", "1:0.1-1", "2:0"),
]


def test_versions_are_ordered_as_debian_policy_says() -> None:
    for index, low in enumerate(ORDERED):
        assert debian.compare_versions(low, low) == 0
        for high in ORDERED[index + 1 :]:
            assert debian.compare_versions(low, high) == -1, (low, high)
            assert debian.compare_versions(high, low) == 1, (high, low)


versions = st.from_regex(
    r"([0-9]:)?[0-9][0-9a-zA-Z.+~]{0,8}(-[0-9a-zA-Z.+~]{1,4})?", fullmatch=True
)


@given(versions, versions, versions)
def test_the_order_is_total(a: str, b: str, c: str) -> None:
    assert debian.compare_versions(a, b) == -debian.compare_versions(b, a)
    if debian.compare_versions(a, b) <= 0 and debian.compare_versions(b, c) <= 0:
        assert debian.compare_versions(a, c) <= 0


@pytest.mark.skipif(shutil.which("dpkg") is None, reason="dpkg is not installed")
@pytest.mark.parametrize(
    ("a", "b"),
    [
        ("1.0a", "1.0+"),
        ("1.0~", "1.0"),
        ("1.0~~", "1.0~"),
        ("1a", "1"),
        ("1.0-1", "1.0-1a"),
        ("09", "9"),
    ],
)
def test_dpkg_agrees(a: str, b: str) -> None:
    wanted = {-1: "lt", 0: "eq", 1: "gt"}[debian.compare_versions(a, b)]
    subprocess.run(["dpkg", "--compare-versions", a, wanted, b], check=True)


SOURCES = """Package: passt
Binary: passt
Version: 0.0~git20250503.587980c-2
Directory: pool/main/p/passt
Checksums-Sha256:
 aaaa 1842 passt_0.0~git20250503.587980c-2.dsc
 bbbb 261392 passt_0.0~git20250503.587980c.orig.tar.xz
 cccc 833 passt_0.0~git20250503.587980c.orig.tar.xz.asc
 dddd 9192 passt_0.0~git20250503.587980c-2.debian.tar.xz

Package: passtis
Version: 9
Directory: pool/main/p/passtis
Checksums-Sha256:
 eeee 1 passtis_9.orig.tar.gz

Package: linux
Version: 7.3.4-1
"""

PACKAGES = """Package: linux-source-7.3
Version: 7.3.4-1~bpo13+1
Filename: pool/main/l/linux/linux-source-7.3_7.3.4-1~bpo13+1_all.deb
SHA256: 703e

Package: linux-source-7.3-extra
Version: 1
Filename: x
SHA256: y
"""


def test_the_upstream_archive_is_taken_from_a_sources_index() -> None:
    (stanza,) = debian.stanzas(SOURCES, "passt")
    found = debian.source_candidate(stanza, "trixie", expired=False)
    assert found == Candidate(
        "passt",
        "0.0~git20250503.587980c-2",
        "trixie",
        "pool/main/p/passt/passt_0.0~git20250503.587980c.orig.tar.xz",
        "bbbb",
    )
    assert found.file == "passt_0.0~git20250503.587980c.orig.tar.xz"
    assert found.upstream == "0.0~git20250503.587980c"


def test_a_source_without_upstream_archive_is_no_candidate() -> None:
    (stanza,) = debian.stanzas(SOURCES, "linux")
    assert debian.source_candidate(stanza, "sid", expired=True) is None


def test_a_packages_index_is_searched_by_pattern() -> None:
    (stanza,) = debian.stanzas(PACKAGES, r"linux-source-\d+\.\d+")
    found = debian.binary_candidate(stanza, "trixie-backports", expired=False)
    assert found
    assert found.package == "linux-source-7.3"
    assert debian.named(found, r"linux-source-\d+\.\d+")
    assert not debian.named(found, "linux")


def candidate(
    version: str, suite: str = "trixie", *, expired: bool = False, sha: str = ""
) -> Candidate:
    return Candidate("p", version, suite, f"pool/p_{version}.tar.xz", sha or version, expired)


def test_the_newest_suitable_version_comes_first_and_older_ones_follow() -> None:
    found = debian.suitable(
        [candidate(v) for v in ("6.12-1", "7.2.9-1", "7.3.4-1~bpo13+1", "7.2.12-1", "7.4.1-1")],
        minimum="7.2",
        below="7.4",
    )
    assert [each.version for each in found] == ["7.3.4-1~bpo13+1", "7.2.12-1", "7.2.9-1"]


def test_release_candidates_are_below_their_release() -> None:
    assert not debian.suitable([candidate("7.2~rc1-1")], minimum="7.2")
    assert debian.suitable([candidate("7.4~rc1-1")], minimum="7.2", below="7.4~") == ()


def test_the_same_file_in_an_expired_suite_is_taken_from_the_one_that_is_not() -> None:
    both = [
        candidate("1.8-1", "sid", expired=True, sha="x"),
        candidate("1.8-1", "trixie", sha="x"),
    ]
    assert [each.suite for each in debian.suitable(both, minimum="1")] == ["trixie"]


@given(st.lists(versions, max_size=8), versions, versions)
def test_choice_keeps_the_limits(found: list[str], minimum: str, below: str) -> None:
    minimum, below = (debian.upstream_version(each) for each in (minimum, below))
    chosen = debian.suitable([candidate(v) for v in found], minimum=minimum, below=below)
    for each in chosen:
        assert debian.compare_versions(each.upstream, minimum) >= 0
        assert debian.compare_versions(each.upstream, below) < 0
    for newer, older in itertools.pairwise(chosen):
        assert debian.compare_versions(newer.version, older.version) >= 0
