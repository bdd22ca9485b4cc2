"""The user's credentials, from the files that docker, podman and their helpers have written."""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from apppot import process
from apppot.errors import ProcessError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

BIGGEST = 1 << 20
HELPER_SECONDS = 60
_HELPER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")


@dataclass(frozen=True)
class Credentials:
    """A name and a password, or a token that others are got with."""

    user: str = ""
    password: str = ""
    identity: str = ""
    source: str = ""

    @property
    def basic(self) -> str:
        """The value of the Authorization header; '' if there is no password."""
        if not (self.user or self.password):
            return ""
        return "Basic " + base64.b64encode(f"{self.user}:{self.password}".encode()).decode()


def files() -> Iterator[str]:
    """Give the files to look into, in order."""
    if named := os.environ.get("REGISTRY_AUTH_FILE"):
        yield named
        return
    if runtime := os.environ.get("XDG_RUNTIME_DIR"):
        yield os.path.join(runtime, "containers", "auth.json")
    home = os.path.expanduser("~")
    own = os.environ.get("XDG_CONFIG_HOME") or os.path.join(home, ".config")
    yield os.path.join(own, "containers", "auth.json")
    yield os.path.join(
        os.environ.get("DOCKER_CONFIG") or os.path.join(home, ".docker"), "config.json"
    )


def find(host: str, repository: str) -> Credentials:
    """Return the credentials for a repository, empty ones if there are none; raises UsageError."""
    for path in files():
        document = _read(path)
        helpers = document.get("credHelpers")
        helper = helpers.get(host) if isinstance(helpers, dict) else None
        if isinstance(helper, str) and (found := _ask(helper, host)):
            return found
        if found := _listed(document, host, repository, path):
            return found
        store = document.get("credsStore")
        if isinstance(store, str) and store:
            for name in _names(host, ""):
                if found := _ask(store, name):
                    return found
    return Credentials()


def _read(path: str) -> dict[str, Any]:
    """Return a file's JSON object, {} if there is no file; raises UsageError."""
    try:
        with open(path, "rb") as file:
            data = file.read(BIGGEST + 1)
    except OSError:
        return {}
    try:
        document = json.loads(data) if len(data) <= BIGGEST else None
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise UsageError(
            f"the file of credentials {path} is not a JSON object",
            hint="correct it, or write it anew with 'podman login' or 'docker login'",
        )
    return document


def _names(host: str, repository: str) -> Iterator[str]:
    """Give the keys under which credentials can be: the most special first."""
    parts = repository.split("/") if repository else []
    for count in range(len(parts), 0, -1):
        yield "/".join((host, *parts[:count]))
    yield host
    yield f"https://{host}"
    if host.count(".") == 1 and host.startswith("docker."):
        yield f"https://index.{host}/v1/"


def _listed(document: dict[str, Any], host: str, repository: str, path: str) -> Credentials | None:
    auths = document.get("auths")
    if not isinstance(auths, dict):
        return None
    for name in _names(host, repository):
        entry = auths.get(name)
        if not isinstance(entry, dict) or not entry:
            continue
        user, password = entry.get("username"), entry.get("password")
        encoded, identity = entry.get("auth"), entry.get("identitytoken")
        if isinstance(encoded, str) and encoded:
            try:
                text = base64.b64decode(encoded).decode()
            except (binascii.Error, ValueError) as error:
                raise UsageError(f"{path}: the credentials of '{name}' are damaged") from error
            user, _, password = text.partition(":")
        if isinstance(identity, str) and identity:
            return Credentials(identity=identity, source=path)
        if isinstance(user, str) and isinstance(password, str):
            return Credentials(user, password.rstrip("\0"), source=path)
    return None


def _ask(helper: str, host: str) -> Credentials | None:
    """Ask a helper program, which has a well-known name; None if it knows nothing."""
    if not _HELPER.fullmatch(helper):
        raise UsageError(f"'{helper}' in the file of credentials is no helper's name")
    program = f"docker-credential-{helper}"
    try:
        done = process.run(
            [program, "get"],
            stdin=host.encode(),
            env=dict(os.environ),
            check=False,
            timeout=HELPER_SECONDS,
        )
    except ProcessError as error:
        raise UsageError(
            f"the credentials of '{host}' cannot be had: {error.message}",
            hint=f"install {program}, or write the file anew with 'podman login {host}'",
        ) from error
    if done.returncode != 0:
        return None  # 'credentials not found'
    try:
        document = json.loads(done.stdout)
        user, secret = str(document["Username"]), str(document["Secret"])
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UsageError(f"'{program} get' did not answer as it should") from error
    if user == "<token>":
        return Credentials(identity=secret, source=program)
    return Credentials(user, secret, source=program)
