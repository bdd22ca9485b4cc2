"""Fetch files through a Debian archive's signed indexes, with apt's own tools in a folder of ours.

Nothing of the host's apt is written, and of its configuration only proxies and passwords are used.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit, urlunsplit

from apppot import process
from apppot.errors import KitError
from apppot.kit import debian

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from apppot.kit.debian import Candidate

HELPER = "/usr/lib/apt/apt-helper"
KEYRINGS = (
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "/usr/share/keyrings/debian-archive-keyring.pgp",
)
PASSED_ON = re.compile(
    r"^(Acquire::(?:\w+::)?(?:Proxy|Proxy-Auto-Detect|\w+::Proxy)(?:::[\w.-]+)?"
    r'|Dir::Etc::netrc\w*) "'
)
DEBIAN_SUITE = re.compile(
    r"(?:(?:old)*stable|testing|unstable|bullseye|bookworm|trixie|forky|duke|sid)"
    r"(?:-updates|-backports)?"
)
SOURCES_HINT = "or give the pinned archives with --sources (see docs/reference/kit.md)"


class MissingFileError(KitError):
    """The mirror's index names a file that the mirror does not have."""


def available() -> bool:
    """Tell whether this computer has apt."""
    return os.access(HELPER, os.X_OK) and os.access("/usr/bin/apt-get", os.X_OK)


def keyring() -> str:
    """Return the keyring of Debian's archive; raises KitError."""
    for path in KEYRINGS:
        if os.access(path, os.R_OK):
            return path
    raise KitError(
        f"Debian's archive keyring is not installed ({KEYRINGS[0]})",
        hint=f"apt-get install debian-archive-keyring, {SOURCES_HINT}",
    )


def choose_mirror(targets: str) -> str:
    """Return the URL of Debian's main archive in the host's index targets, or ''.

    `targets` has a line of release, component, label and URL, parted by tabs, for each index.
    """
    rows = [line.split("\t") for line in targets.splitlines()]
    urls = [
        url
        for release, component, label, url in (row for row in rows if len(row) == 4)  # noqa: PLR2004
        if component == "main"
        and label in ("Debian", "")
        and not release.endswith(("-security", "/updates"))
        and "security" not in url
    ]
    return urls[0] if urls else ""


def choose_unfetched(uris: str) -> str:
    """Return the URL of Debian's main archive in what `apt-get update --print-uris` would fetch.

    For computers that have never fetched the indexes, or have removed them as container images do.
    Without them nobody tells that an archive is Debian's but the names of its suites.
    """
    pattern = r"^'(\S+?/)dists/([\w-]+)/main/binary-amd64/Packages"
    for url, suite in re.findall(pattern, uris, re.MULTILINE):
        if DEBIAN_SUITE.fullmatch(suite) and "security" not in url:
            return str(url)
    return ""


def host_mirror() -> str:
    """Return the URL of the Debian archive that the host's own apt uses; raises KitError."""
    listing = process.run(
        [
            "apt-get",
            "indextargets",
            "--format",
            "$(RELEASE)\t$(COMPONENT)\t$(LABEL)\t$(REPO_URI)",
            "Created-By: Packages",
        ],
        check=False,
    )
    text = re.sub(r"\$\(\w+\)", "", listing.stdout.decode("utf-8", "replace"))
    mirror = choose_mirror(text)
    if not mirror:
        listing = process.run(["apt-get", "update", "--print-uris"], check=False)
        mirror = choose_unfetched(listing.stdout.decode("utf-8", "replace"))
    if not mirror:
        raise KitError(
            "the host's apt is not set up for a Debian archive, so there is no mirror to ask",
            hint=f"name one with --mirror URL or APPPOT_MIRROR, {SOURCES_HINT}",
        )
    return mirror


def without_password(url: str) -> str:
    """Return `url` without the user's name and password, as it may be written to kit.json."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))


def proxy_lines(dump: str) -> list[str]:
    """Return the lines of `apt-config dump` that tell how to reach a mirror."""
    return [line for line in dump.splitlines() if PASSED_ON.match(line)]


@dataclass
class Archive:
    """A Debian archive seen through our own apt folder; `refresh` must come first."""

    mirror: str
    folder: str
    suites: tuple[str, ...]
    allow_expired: bool = False
    refused: dict[str, str] = field(default_factory=dict)  # suite -> why
    expired: tuple[str, ...] = ()

    @property
    def _environment(self) -> Mapping[str, str]:
        return process.clean_environment({"APT_CONFIG": os.path.join(self.folder, "apt.conf")})

    def _configure(self) -> None:
        """Write apt's configuration; it reads no other."""
        for part in ("state/lists/partial", "cache/archives/partial", "etc/apt.conf.d"):
            os.makedirs(os.path.join(self.folder, part), exist_ok=True)
        signed = f"[signed-by={keyring()}]"
        lines = [
            f"{kind} {signed} {self.mirror} {suite} main\n"
            for suite in self.suites
            for kind in ("deb", "deb-src")
        ]
        _write(os.path.join(self.folder, "sources.list"), "".join(lines))
        dump = process.run(["apt-config", "dump"], check=False).stdout.decode("utf-8", "replace")
        settings = {
            "Dir::State": f"{self.folder}/state",
            "Dir::State::status": "/dev/null",
            "Dir::Cache": f"{self.folder}/cache",
            "Dir::Cache::pkgcache": "",
            "Dir::Cache::srcpkgcache": "",
            "Dir::Etc": f"{self.folder}/etc",
            "Dir::Etc::main": "/dev/null",
            "Dir::Etc::sourcelist": f"{self.folder}/sources.list",
            "Dir::Etc::sourceparts": "/dev/null",
            "APT::Sandbox::User": "",  # we are an ordinary user, or want to be treated as one
            "APT::Architecture": "amd64",
            "APT::Architectures": "amd64",
            "Acquire::Languages": "none",
            "Acquire::Retries": "3",
            "Acquire::Check-Valid-Until": "false" if self.allow_expired else "true",
            "Acquire::AllowInsecureRepositories": "false",
        }
        text = "".join(f'{name} "{value}";\n' for name, value in settings.items())
        text += "".join(f"{line}\n" for line in proxy_lines(dump))
        _write(os.path.join(self.folder, "apt.conf"), text)

    def refresh(self) -> None:
        """Fetch the indexes; `refused` then says which suites cannot be used, and why.

        Raises KitError if no suite is left.
        """
        self._configure()
        done = process.run(["apt-get", "-q", "update"], env=self._environment, check=False)
        output = (done.stdout + done.stderr).decode("utf-8", "replace")
        self.refused = refusals(output, self.suites) if done.returncode else {}
        if set(self.refused) == set(self.suites):
            reasons = "; ".join(dict.fromkeys(self.refused.values()))
            expired = any(" is expired" in why for why in self.refused.values())
            raise KitError(
                f"no suite of the mirror {without_password(self.mirror)} can be used: {reasons}",
                hint=(
                    "take the risk with --allow-expired, " if expired else "try another --mirror, "
                )
                + SOURCES_HINT,
            )
        if self.allow_expired:
            self.expired = tuple(suite for suite in self.suites if self._is_expired(suite))

    def _is_expired(self, suite: str) -> bool:
        """Tell whether a suite that was accepted all the same is past its Valid-Until."""
        import email.utils
        import time

        lists = os.path.join(self.folder, "state", "lists")
        for name in os.listdir(lists):
            if name.endswith((f"_dists_{suite}_InRelease", f"_dists_{suite}_Release")):
                with open(os.path.join(lists, name), encoding="utf-8") as stream:
                    found = re.search(r"^Valid-Until: (.*)$", stream.read(), re.MULTILINE)
                if found:
                    until = email.utils.parsedate_to_datetime(found[1]).timestamp()
                    return until < time.time()
        return False

    def candidates(self, packages: Iterable[str], kind: str) -> list[Candidate]:
        """Return what the indexes of `kind` ("Packages" or "Sources") have of `packages`.

        `packages` are regular expressions.
        """
        listing = process.run(
            [
                "apt-get",
                "indextargets",
                "--format",
                "$(RELEASE)\t$(FILENAME)",
                f"Created-By: {kind}",
            ],
            env=self._environment,
        ).stdout.decode()
        make = debian.binary_candidate if kind == "Packages" else debian.source_candidate
        found = []
        for line in listing.splitlines():
            suite, _, name = line.partition("\t")
            if suite in self.refused or suite not in self.suites:
                continue
            index = process.run([HELPER, "cat-file", name], env=self._environment).stdout.decode()
            for package in packages:
                found += [
                    make(stanza, suite, expired=suite in self.expired)
                    for stanza in debian.stanzas(index, package)
                ]
        return [candidate for candidate in found if candidate]

    def fetch(self, candidate: Candidate, target: str) -> None:
        """Fetch a file to `target`, checked against the signed index's digest.

        Raises MissingFileError if the mirror does not have it, KitError if it cannot be had.
        """
        url = f"{self.mirror.rstrip('/')}/{candidate.path}"
        done = process.run(
            [HELPER, "download-file", url, target, f"SHA256:{candidate.sha256}"],
            env=self._environment,
            check=False,
        )
        if done.returncode == 0 and os.path.isfile(target):
            return
        output = (done.stdout + done.stderr).decode("utf-8", "replace")
        if re.search(r"^\s*404 |File not found|No such file", output, re.MULTILINE):
            raise MissingFileError(f"the mirror does not have {candidate.file}")
        lines = [line for line in output.splitlines() if line.startswith("E:")] or [output.strip()]
        raise KitError(f"cannot fetch {candidate.file}: {lines[0]}", hint="try another --mirror")


def refusals(output: str, suites: Iterable[str]) -> dict[str, str]:
    """Return for each suite that `apt-get update` could not use what it said, from its output.

    A failure that names no suite counts for all of them.
    """
    errors = [line[2:].strip() for line in output.splitlines() if line.startswith(("E:", "W: GPG"))]
    said: dict[str, str] = {}
    general = []
    suites = tuple(suites)
    for error in errors:
        named = [suite for suite in suites if re.search(rf"[/ ]{re.escape(suite)}[/ ]", error)]
        for suite in named:
            said.setdefault(suite, error.split(". Updates for")[0])
        if not named and not error.startswith("Some index files failed"):
            general.append(error)
    for error in general:
        for suite in suites:
            said.setdefault(suite, error)
    return said


def _write(path: str, text: str) -> None:
    with open(path, "w", encoding="utf-8") as stream:
        stream.write(text)
