"""Get the components' sources: from a Debian archive, or from pinned archives in a folder."""

from __future__ import annotations

import json
import os
import time
import tomllib
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from apppot.errors import KitError
from apppot.kit import apt, debian
from apppot.kit.debian import Candidate
from apppot.kit.manifest import Source
from apppot.kit.verify import sha256_of

if TYPE_CHECKING:
    from apppot.kit.progress import Progress

FRESH = 3600  # seconds for which the indexes are not fetched again


@dataclass(frozen=True)
class Pin:
    """An upstream archive known by its digest."""

    file: str
    version: str
    sha256: str


@dataclass(frozen=True)
class Wanted:
    """What kit/versions.toml says of one component."""

    name: str
    licence: str
    package: str = ""  # regular expression; '' for the project's own
    kind: str = "Sources"
    minimum: str = ""
    below: str = ""
    pins: tuple[Pin, ...] = ()


@dataclass(frozen=True)
class Got:
    """A component's source on disk; `path` is '' for the project's own."""

    version: str
    path: str
    sources: tuple[Source, ...]


@dataclass(frozen=True)
class Options:
    """What the user said about sources."""

    mirror: str = ""
    allow_expired: bool = False
    folder: str = ""


@dataclass(frozen=True)
class Versions:
    """All of kit/versions.toml: the suites to ask, and what is wanted of each component."""

    suites: tuple[str, ...]
    wanted: dict[str, Wanted]

    def packages(self, kind: str) -> list[str]:
        """Return the regular expressions of the packages to look for in indexes of `kind`."""
        return [each.package for each in self.wanted.values() if each.package and each.kind == kind]


def read_versions(path: str) -> Versions:
    """Return the content of kit/versions.toml; raises KitError."""
    try:
        with open(path, "rb") as stream:
            content = tomllib.load(stream)
        suites = tuple(map(str, content.pop("suites")))
        wanted = {
            name: _wanted(name, content[table["like"]] if "like" in table else table)
            for name, table in content.items()
        }
        return Versions(suites, wanted)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise KitError(f"cannot read {path}: {error}") from error


def _wanted(name: str, table: dict[str, Any]) -> Wanted:
    pins = tuple(
        Pin(str(pin["file"]), str(pin["version"]), str(pin["sha256"]))
        for pin in table.get("archives", ())
    )
    return Wanted(
        name=name,
        licence=str(table["licence"]),
        package=str(table.get("binary") or table.get("source", "")),
        kind="Packages" if "binary" in table else "Sources",
        minimum=str(table.get("minimum", "")),
        below=str(table.get("below", "")),
        pins=pins,
    )


def pinned(wanted: Wanted, folder: str) -> Got | None:
    """Return the component's pinned archive in `folder`; None if it has none of them.

    Raises KitError if a file there has the name of a pinned archive and another content.
    """
    for pin in wanted.pins:
        path = os.path.join(folder, pin.file)
        if not os.path.isfile(path):
            continue
        digest = sha256_of(path)
        if digest != pin.sha256:
            raise KitError(
                f"{path} is not the archive that is pinned for {wanted.name}: "
                f"its SHA-256 digest is {digest}, not {pin.sha256}",
                hint="fetch it again",
            )
        source = Source("archive", pin.file, pin.sha256, version=pin.version)
        return Got(pin.version, os.path.abspath(path), (source,))
    return None


def pins_text(wanted: Wanted) -> str:
    """Return the component's pinned archives as text for an error."""
    return " or ".join(f"{pin.file} (SHA-256 {pin.sha256})" for pin in wanted.pins)


def no_source_error(lacking: list[Wanted], why: str) -> KitError:
    """Return the error for components that have no source at all."""
    return KitError(
        f"{why}, and these archives were not given:\n"
        + "\n".join(f"  {each.name}: {pins_text(each)}" for each in lacking),
        hint="put them into a folder and name it with --sources",
    )


class Finder:
    """Finds components' sources, with one look at the mirror for all of them."""

    def __init__(
        self, versions: Versions, options: Options, cache: str, progress: Progress
    ) -> None:
        self.versions = versions
        self.options = options
        self.cache = cache
        self.progress = progress
        self._archive: apt.Archive | None = None

    def find(self, wanted: list[Wanted]) -> dict[str, Got]:
        """Return each component's source; raises KitError if one cannot be had."""
        found = {each.name: Got("", "", ()) for each in wanted if not each.package}
        rest = [each for each in wanted if each.package]
        if self.options.folder:
            given = {each.name: pinned(each, self.options.folder) for each in rest}
            found |= {name: got for name, got in given.items() if got}
            rest = [each for each in rest if each.name not in found]
        if not rest:
            return found
        if not apt.available():
            raise no_source_error(rest, "this computer has no apt")
        choices = self._choices(rest)
        for each in rest:
            found[each.name] = self._fetch_first(each, choices[each.name])
        return found

    def _choices(self, wanted: list[Wanted]) -> dict[str, tuple[Candidate, ...]]:
        """Return the suitable versions of each component, the newest first."""
        archive = self._open()
        known = self._known(archive)
        choices = {}
        for each in wanted:
            found = [c for c in known if debian.named(c, each.package)]
            choices[each.name] = debian.suitable(found, minimum=each.minimum, below=each.below)
            if not choices[each.name]:
                have = ", ".join(sorted({f"{c.version} ({c.suite})" for c in found})) or "nothing"
                limit = f" and below {each.below}" if each.below else ""
                raise KitError(
                    f"the mirror has no suitable {each.name}: wanted at least {each.minimum}"
                    f"{limit}, found {have}",
                    hint=f"--allow-expired, another --mirror, or --sources with {pins_text(each)}",
                )
        return choices

    def _open(self) -> apt.Archive:
        mirror = self.options.mirror or os.environ.get("APPPOT_MIRROR", "") or apt.host_mirror()
        mode = "any" if self.options.allow_expired else "valid"
        folder = os.path.join(self.cache, "apt", f"{mode}-{_key(mirror)}")
        self._archive = apt.Archive(
            mirror, folder, self.versions.suites, self.options.allow_expired
        )
        return self._archive

    def _known(self, archive: apt.Archive) -> list[Candidate]:
        """Return what the mirror's indexes have; they are fetched at most once an hour."""
        memory = os.path.join(archive.folder, "candidates.json")
        packages = {kind: self.versions.packages(kind) for kind in ("Packages", "Sources")}
        asked = {"suites": list(archive.suites), "packages": packages, "keyring": apt.keyring()}
        try:
            with open(memory, encoding="utf-8") as stream:
                content = json.load(stream)
            fresh = 0 <= time.time() - os.stat(memory).st_mtime < FRESH
            if fresh and content["for"] == asked:
                self._say(content["refused"], [Candidate(**row) for row in content["candidates"]])
                return [Candidate(**row) for row in content["candidates"]]
        except (OSError, ValueError, KeyError, TypeError):
            pass
        with self.progress.step("sources: fetch the archive's indexes"):
            archive.refresh()
        with self.progress.step("sources: look for suitable versions"):
            known = [c for kind in packages for c in archive.candidates(packages[kind], kind)]
        self._say(archive.refused, known)
        rows = [asdict(candidate) for candidate in known]
        content = {"for": asked, "refused": archive.refused, "candidates": rows}
        with open(memory, "w", encoding="utf-8") as stream:
            json.dump(content, stream)
        return known

    def _say(self, refused: dict[str, str], known: list[Candidate]) -> None:
        for suite, why in refused.items():
            more = " (--allow-expired uses it all the same)" if " is expired" in why else ""
            self.progress.note(f"sources: suite {suite} is left out: {why}{more}")
        for suite in sorted({c.suite for c in known if c.expired}):
            self.progress.note(f"sources: warning: the Release file of suite {suite} has expired")

    def _fetch_first(self, wanted: Wanted, choices: tuple[Candidate, ...]) -> Got:
        """Return the newest of `choices` whose file the mirror really has."""
        for candidate in choices:
            path = os.path.join(self.cache, "sources", candidate.sha256, candidate.file)
            if not os.path.isfile(path) or sha256_of(path) != candidate.sha256:
                try:
                    self._fetch(wanted.name, candidate, path)
                except apt.MissingFileError as error:
                    self.progress.note(f"{wanted.name}: {error.message}; trying the next version")
                    continue
            return self._got(candidate, path)
        tried = ", ".join(candidate.file for candidate in choices)
        raise KitError(
            f"{wanted.name}: the mirror's indexes name {tried}, but it has none of them",
            hint=f"another --mirror, or --sources with {pins_text(wanted)}",
        )

    def _fetch(self, name: str, candidate: Candidate, path: str) -> None:
        assert self._archive
        os.makedirs(os.path.dirname(path), exist_ok=True)
        aside = f"{path}.part"
        try:
            with self.progress.step(f"{name}: fetch {candidate.file}"):
                self._archive.fetch(candidate, aside)
                os.replace(aside, path)
        finally:
            if os.path.exists(aside):
                os.unlink(aside)

    def _got(self, candidate: Candidate, path: str) -> Got:
        assert self._archive
        source = Source(
            "debian",
            candidate.file,
            candidate.sha256,
            package=candidate.package,
            version=candidate.version,
            suite=candidate.suite,
            mirror=apt.without_password(self._archive.mirror),
            expired=candidate.expired,
        )
        return Got(candidate.upstream, path, (source,))


def _key(mirror: str) -> str:
    import hashlib

    return hashlib.sha256(mirror.encode()).hexdigest()[:12]
