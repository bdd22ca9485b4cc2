"""Where a distribution's packages come from: suites, mirrors, and what their Release files say."""

from __future__ import annotations

import os
import re
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

from apppot import process
from apppot.errors import AppPotError, ImageError, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

KEYRINGS = "/usr/share/keyrings"
APT_HELPER = "/usr/lib/apt/apt-helper"
ROLLING = frozenset({"sid", "unstable", "experimental", "rc-buggy", "devel"})
COMPONENTS = {"ubuntu": ("main", "universe")}
_SUITE = re.compile(r"[a-z0-9][a-z0-9.+-]*")
_MIRROR = re.compile(
    r"(?:https?|ftp|tor\+https?)://[^\s/\[\]]+(?:/[^\s\[\]]*)?|(?:file|copy):/[^\s\[\]]+"
)
_NOT_THERE = ("404", "403", "410", "File not found")
_DOWNLOAD_TIME = 120.0


@dataclass(frozen=True)
class Source:
    """One suite of one mirror. An optional one is left out if the mirror does not have it."""

    uri: str
    suite: str
    optional: bool = False


@dataclass(frozen=True)
class Target:
    """A line of the host's own apt configuration, as `apt-get indextargets` gives it."""

    uri: str
    origin: str
    label: str
    release: str


@dataclass(frozen=True)
class Release:
    """What a suite's Release file says; `date` is in seconds since 1970."""

    source: Source
    date: int
    codename: str
    version: str


def check_suite(suite: str) -> str:
    """Return `suite` if it can be a suite's name; raises UsageError."""
    if not _SUITE.fullmatch(suite):
        raise UsageError(
            f"'{suite}' is not a suite's name", hint="a suite is, for example, bookworm or noble"
        )
    return suite


def check_mirror(uri: str) -> str:
    """Return the mirror's address without a slash at its end; raises UsageError."""
    if not _MIRROR.fullmatch(uri):
        raise UsageError(
            f"'{uri}' is not a mirror's address",
            hint="give the address that is in sources.list, such as http://HOST/debian",
        )
    if "@" in uri.partition("://")[2].partition("/")[0]:
        raise UsageError(
            "a mirror's address with a password would end up in the image",
            hint="put the password into /etc/apt/auth.conf.d (see apt_auth.conf(5))",
        )
    return uri.rstrip("/")


def plan(
    distribution: str, suite: str, mirror: str, targets: Sequence[Target]
) -> tuple[Source, ...]:
    """Return the suites to use, from a mirror or else from the host's configuration.

    Returns () if neither says where the distribution is.
    """
    origin = distribution.capitalize()
    archive, security = mirror, ""
    if not archive:
        own = [t for t in targets if t.origin == origin and t.label == origin]
        own.sort(key=lambda target: target.release != suite)
        archive = own[0].uri.rstrip("/") if own else ""
        for target in targets:
            if target.origin == origin and target.label == f"{origin}-Security":
                security = target.uri.rstrip("/")
                break
    if not archive:
        return ()
    if suite in ROLLING:
        return (Source(archive, suite),)
    if distribution == "debian" and not security:
        # Mirrors have both archives side by side.
        parent, _, name = archive.rpartition("/")
        security = f"{parent}/{name}-security"
    return (
        Source(archive, suite),
        Source(archive, f"{suite}-updates", optional=True),
        Source(security or archive, f"{suite}-security", optional=True),
    )


def host_targets() -> tuple[Target, ...]:
    """Return what the host's own apt is configured for; () if there is no apt."""
    fields = "$(REPO_URI)\t$(ORIGIN)\t$(LABEL)\t$(RELEASE)"
    try:
        done = process.run(
            ["apt-get", "indextargets", "--format", fields, "Created-By: Packages"], check=False
        )
    except AppPotError:
        return ()
    found = []
    for line in done.stdout.decode("utf-8", "replace").splitlines():
        parts = line.split("\t")
        if len(parts) == 4:  # noqa: PLR2004  the fields asked for
            found.append(Target(*parts))
    return tuple(found)


def parse_one_line(text: str) -> tuple[Source, ...]:
    """Return the sources in one-line form in a text; all but the first are optional."""
    found: list[Source] = []
    for line in text.splitlines():
        words = re.sub(r"\[[^\]]*\]", "", line).split()
        if len(words) >= 3 and words[0] == "deb":  # noqa: PLR2004
            found.append(Source(words[1].rstrip("/"), words[2], optional=bool(found)))
    return tuple(found)


def one_line(source: Source, components: Sequence[str], keyring: str) -> str:
    """Return the line for sources.list."""
    options = f"[signed-by={keyring}] " if keyring else ""
    return f"deb {options}{source.uri} {source.suite} {' '.join(components)}"


def archive_keyring(distribution: str) -> str:
    """Return the path of the distribution's own keyring on this host and in the image, or ''."""
    path = os.path.join(KEYRINGS, f"{distribution}-archive-keyring.gpg")
    return path if os.path.exists(path) else ""


def releases(sources: Sequence[Source]) -> tuple[Release, ...]:
    """Return the Release files of the sources that exist; raises ImageError."""
    with tempfile.TemporaryDirectory(prefix="apppot-") as folder:
        found = []
        for number, source in enumerate(sources):
            text = _fetch(source, os.path.join(folder, str(number)))
            if text:
                found.append(parse_release(source, text))
        return tuple(found)


def parse_release(source: Source, text: str) -> Release:
    """Return what a Release file says; raises ImageError. apt checks its signature, not this."""
    from email.utils import parsedate_to_datetime

    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, colon, value = line.partition(":")
        if colon and key and not key.startswith(" "):
            fields.setdefault(key, value.strip())
    try:
        date = int(parsedate_to_datetime(fields["Date"]).timestamp())
    except (KeyError, ValueError, TypeError, OverflowError) as error:
        raise ImageError(
            f"{source.uri}/dists/{source.suite}/InRelease is not a Release file: it has no date",
            hint="is this the address of a Debian mirror? See it in a browser",
        ) from error
    return Release(source, date, fields.get("Codename", ""), fields.get("Version", ""))


def _fetch(source: Source, path: str) -> str:
    """Return a suite's InRelease (or Release) file; '' if an optional one is not there."""
    problem = ""
    for name in ("InRelease", "Release"):
        uri = f"{source.uri}/dists/{source.suite}/{name}"
        if uri.startswith("file:"):
            path = re.sub("^file:/*", "/", uri)
            if not os.path.exists(path):
                problem = f"File not found: {path}"
                continue
        else:
            # apt's own downloader knows this host's proxies and passwords.
            done = process.run(
                [APT_HELPER, "download-file", uri, path], check=False, timeout=_DOWNLOAD_TIME
            )
            if done.returncode != 0:
                problem = _reason(done.stdout + b"\n" + done.stderr)
                if not _is_missing(problem):
                    break
                continue
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    if source.optional and _is_missing(problem):
        return ""
    raise ImageError(
        f"cannot get the suite '{source.suite}' from the mirror {source.uri}: {problem}",
        hint="check the suite's name; choose a mirror with --mirror URL or APPPOT_MIRROR"
        if _is_missing(problem)
        else "is the network up? Choose a mirror with --mirror URL or APPPOT_MIRROR",
    )


def _is_missing(problem: str) -> bool:
    """Tell whether a download failed because there is no such file."""
    return problem.startswith(_NOT_THERE)


def _reason(output: bytes) -> str:
    """Return why apt-helper failed, in its words."""
    lines = [line.strip() for line in output.decode("utf-8", "replace").splitlines()]
    for line, after in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith("Err:") and after:
            return re.sub(r"\s+", " ", after)
    return next((line for line in lines if line.startswith("E:")), "unknown reason")
