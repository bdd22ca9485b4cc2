"""The names of images: `name[:tag][@digest]`, or a digest, or the beginning of one."""

from __future__ import annotations

import re

from apppot.errors import UsageError
from apppot.lean import dataclass

DEFAULT_TAG = "latest"
DOCKER = "docker.io"  # where short names are below library/
SHORTEST_PREFIX = 8
LONGEST_NAME = 255
DIGEST_LENGTH = 64
HEXADECIMAL = "0123456789abcdef"
# Regular expressions are compiled when they are needed: for plain names they are not.
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_HOST = (
    r"[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?(?::[0-9]{1,5})?|\[[0-9a-fA-F:.]+\](?::[0-9]{1,5})?"
)
_TAG = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}"
_GRAMMAR = "an image is NAME[:TAG][@sha256:DIGEST], such as debian:bookworm"


_PATHS = ("/", "./", "../")


def is_path(text: str) -> bool:
    """Tell whether a text in an image's place is the path of a file, such as a raw disk."""
    return text.startswith(_PATHS)


@dataclass(frozen=True)
class Reference:
    """What a user named. `prefix` is set if the text can be (the beginning of) a digest.

    A text with a prefix and no name can only be a digest; one with both, such as `deadbeef`, is
    first looked for as a name.
    """

    name: str
    tag: str = DEFAULT_TAG
    digest: str = ""
    prefix: str = ""

    def __str__(self) -> str:
        if not self.name:
            return f"sha256:{self.prefix}"
        return f"{self.full}@{self.digest}" if self.digest else self.full

    @property
    def full(self) -> str:
        """The name and the tag, as the store's index has them."""
        return f"{self.name}:{self.tag}"


def parse(text: str) -> Reference:
    """Return what `text` names; raises UsageError."""
    prefix = text.removeprefix("sha256:")
    if not SHORTEST_PREFIX <= len(prefix) <= DIGEST_LENGTH or prefix.strip(HEXADECIMAL):
        prefix = ""
    if text.startswith("sha256:"):
        if not prefix:
            raise _error(
                text, f"a digest is sha256: and {SHORTEST_PREFIX} to 64 hexadecimal digits"
            )
        return Reference("", "", prefix=prefix)
    rest, at, digest = text.partition("@")
    if at and not is_digest(digest):
        raise _error(text, "after '@' there must be sha256: and 64 hexadecimal digits")
    name, tag = rest, DEFAULT_TAG
    colon = rest.rfind(":")
    if colon > rest.rfind("/"):
        name, tag = rest[:colon], rest[colon + 1 :]
        if not (_plain(tag) or re.fullmatch(_TAG, tag)):
            raise _error(text, f"the tag '{tag}' is not 1 to 128 letters, digits, '_', '.' and '-'")
    _check_name(text, name)
    return Reference(name, tag, digest, prefix)


def parse_name(text: str) -> Reference:
    """Return what `text` names, for an image that is to be made: no digest; raises UsageError."""
    reference = parse(text)
    if reference.digest or not reference.name:
        raise _error(text, "a new image gets a name and a tag, not a digest")
    return reference


def place(name: str, default: str) -> tuple[str, str]:
    """Return the registry that a name without a tag leads to, and the repository in it.

    Names without a host lead to `default`. Two names with the same place mean the same image.
    """
    first, slash, rest = name.partition("/")
    is_host = slash and ("." in first or ":" in first or first == "localhost")
    host, repository = (first, rest) if is_host else (default, name)
    if host in {DOCKER, f"index.{DOCKER}"}:
        return DOCKER, repository if "/" in repository else f"library/{repository}"
    return host, repository


def is_digest(text: str) -> bool:
    """Tell whether `text` is a SHA-256 digest, safe to be made into a file's name."""
    return (
        text.startswith("sha256:")
        and len(text) == len("sha256:") + DIGEST_LENGTH
        and not text[7:].strip(HEXADECIMAL)
    )


def _plain(text: str) -> bool:
    """Tell whether there are only a few lower-case letters and digits: always right."""
    return len(text) <= 64 and text.isascii() and text.isalnum() and text.islower()  # noqa: PLR2004


def _check_name(text: str, name: str) -> None:
    """Check the part before the tag: [host[:port]/]component[/component]..."""
    if not name:
        raise _error(text, "the name is empty")
    if is_path(text):
        raise _error(text, "it is the path of a file")
    scheme, found, rest = text.partition("://")
    if found:
        raise _error(text, f"leave '{scheme}://' out: {rest}")
    if len(name) > LONGEST_NAME:
        raise _error(
            text[:40] + "...", f"the name has {len(name)} characters, {LONGEST_NAME} is the most"
        )
    first, *others = name.split("/")
    is_host = bool(others) and (
        "." in first or ":" in first or first == "localhost" or first != first.lower()
    )
    if is_host and not (re.fullmatch(_HOST, first) or re.fullmatch(_COMPONENT, first)):
        raise _error(text, f"'{first}' is not a host name")
    for component in others if is_host else (first, *others):
        if _plain(component) or re.fullmatch(_COMPONENT, component):
            continue
        if component.lower() != component and re.fullmatch(_COMPONENT, component.lower()):
            raise _error(text, f"'{component}' has capital letters; try '{component.lower()}'")
        what = f"'{component}' is not" if component else "a part is empty, not"
        raise _error(
            text, f"{what} lower-case letters and digits, parted by single '.', '_' or '-'"
        )


def _error(text: str, problem: str) -> UsageError:
    return UsageError(f"'{text}' does not name an image: {problem}", hint=_GRAMMAR)
