"""Where a reference leads: a registry, a repository in it, and a tag or digest."""

from __future__ import annotations

from dataclasses import dataclass

from apppot import config
from apppot.errors import UsageError
from apppot.image import reference

DEFAULT = "registry.default"


@dataclass(frozen=True)
class Place:
    """An image in a registry. `name` is what it is called in a store."""

    host: str
    repository: str
    tag: str
    digest: str
    name: str

    @property
    def version(self) -> str:
        """The digest if there is one, else the tag."""
        return self.digest or self.tag

    @property
    def server(self) -> str:
        """The host and port to connect to."""
        docker = reference.DOCKER  # whose interface is at another name
        return f"registry-1.{docker}" if self.host == docker else self.host

    def __str__(self) -> str:
        end = f"@{self.digest}" if self.digest else f":{self.tag}"
        return f"{self.host}/{self.repository}{end}"


def parse(text: str) -> Place:
    """Return where `text` leads; raises UsageError."""
    wanted = reference.parse(text)
    if not wanted.name:
        raise UsageError(f"'{text}' is a digest without a name", hint="say HOST/NAME@sha256:DIGEST")
    host, repository = reference.place(wanted.name, config.text(DEFAULT))
    if not host:
        raise UsageError(
            f"'{text}' does not name a registry",
            hint=f"say HOST/{text}, or set {DEFAULT} in the configuration file",
        )
    return Place(host, repository, wanted.tag, wanted.digest, wanted.full)
