"""Debian's control files and version numbers, and the choice of a version: pure functions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cmp_to_key
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


@dataclass(frozen=True)
class Candidate:
    """A file that a signed index of a suite names."""

    package: str
    version: str
    suite: str
    path: str  # below the mirror's URL
    sha256: str
    expired: bool = False

    @property
    def file(self) -> str:
        """The file's own name."""
        return self.path.rsplit("/", 1)[-1]

    @property
    def upstream(self) -> str:
        """The version without epoch and Debian's revision."""
        return upstream_version(self.version)


def _weight(character: str) -> int:
    """Return a character's place in Debian's order: tilde, end, letters, all else."""
    if character == "~":
        return -1
    return ord(character) if character.isalpha() else ord(character) + 256


def _compare_part(left: str, right: str) -> int:
    """Compare upstream versions or revisions (deb-version(7), "Sorting algorithm")."""
    while left or right:
        words = [re.match(r"\D*", text)[0] for text in (left, right)]  # type: ignore[index]
        left, right = left[len(words[0]) :], right[len(words[1]) :]
        # The end of a word (0) sorts after a tilde and before everything else.
        weights = [[*map(_weight, word), 0] for word in words]
        if weights[0] != weights[1]:
            return 1 if weights[0] > weights[1] else -1
        digits = [re.match(r"\d*", text)[0] for text in (left, right)]  # type: ignore[index]
        left, right = left[len(digits[0]) :], right[len(digits[1]) :]
        numbers = [int(text or "0") for text in digits]
        if numbers[0] != numbers[1]:
            return 1 if numbers[0] > numbers[1] else -1
    return 0


def _split(version: str) -> tuple[int, str, str]:
    epoch, colon, rest = version.partition(":")
    if not colon:
        epoch, rest = "0", version
    upstream, dash, revision = rest.rpartition("-")
    return int(epoch) if epoch.isdigit() else 0, upstream if dash else rest, revision


def upstream_version(version: str) -> str:
    """Return a version without its epoch and revision: 1:2.3-4 gives 2.3."""
    return _split(version)[1]


def compare_versions(left: str, right: str) -> int:
    """Return -1, 0 or 1, as dpkg --compare-versions would order the two."""
    (epoch, upstream, revision), (epoch2, upstream2, revision2) = _split(left), _split(right)
    if epoch != epoch2:
        return 1 if epoch > epoch2 else -1
    return _compare_part(upstream, upstream2) or _compare_part(revision, revision2)


def suitable(
    candidates: Iterable[Candidate], *, minimum: str, below: str = ""
) -> tuple[Candidate, ...]:
    """Return the candidates with minimum <= upstream version < below, the newest first.

    Of the same version in several suites, one that has not expired comes first, then the one that
    was given first.
    """
    fit = [
        candidate
        for candidate in candidates
        if _compare_part(candidate.upstream, minimum) >= 0
        and (not below or _compare_part(candidate.upstream, below) < 0)
    ]
    fit.sort(key=lambda candidate: candidate.expired)
    order = cmp_to_key(compare_versions)
    newest = sorted(fit, key=lambda candidate: order(candidate.version), reverse=True)
    distinct: dict[str, Candidate] = {}
    for candidate in newest:
        distinct.setdefault(candidate.sha256, candidate)
    return tuple(distinct.values())


def named(candidate: Candidate, package: str) -> bool:
    """Tell whether a candidate's package fits the regular expression `package`."""
    return re.fullmatch(package, candidate.package) is not None


def stanzas(index: str, package: str) -> Iterator[dict[str, str]]:
    """Yield the fields of every paragraph of a Packages or Sources index that is of `package`.

    `package` is a regular expression. An index is tens of megabytes: only what fits is taken apart.
    """
    for match in re.finditer(rf"^Package: (?:{package})$", index, re.MULTILINE):
        start = index.rfind("\n\n", 0, match.start()) + 2 if match.start() else 0
        end = index.find("\n\n", match.end())
        yield fields(index[max(start, 0) : end if end >= 0 else len(index)])


def fields(paragraph: str) -> dict[str, str]:
    """Return the fields of one paragraph of a control file; continuation lines stay apart."""
    found: dict[str, str] = {}
    name = ""
    for line in paragraph.splitlines():
        if line[:1] in (" ", "\t"):
            if name:
                found[name] += "\n" + line.strip()
        else:
            name, colon, value = line.partition(":")
            name = name.strip() if colon else ""
            if name:
                found[name] = value.strip()
    return found


def binary_candidate(stanza: dict[str, str], suite: str, *, expired: bool) -> Candidate | None:
    """Return the .deb that a paragraph of a Packages index names."""
    try:
        return Candidate(
            stanza["Package"],
            stanza["Version"],
            suite,
            stanza["Filename"],
            stanza["SHA256"],
            expired,
        )
    except KeyError:
        return None


def source_candidate(stanza: dict[str, str], suite: str, *, expired: bool) -> Candidate | None:
    """Return the upstream archive that a paragraph of a Sources index names.

    The .dsc and Debian's own changes are not wanted: the index itself is signed.
    """
    for line in stanza.get("Checksums-Sha256", "").splitlines():
        words = line.split()
        if len(words) == 3 and re.search(r"\.orig\.tar\.(gz|xz|bz2)$", words[2]):  # noqa: PLR2004
            return Candidate(
                stanza["Package"],
                stanza["Version"],
                suite,
                f"{stanza['Directory']}/{words[2]}",
                words[0],
                expired,
            )
    return None
