"""Whose certificates are believed: the system's authorities, and those of a registry's own.

These are in the folders where docker and podman look for them.
"""

from __future__ import annotations

import os
import ssl

from urllib3.util.ssl_ import create_urllib3_context

from apppot.errors import UsageError

FOLDERS = ("/etc/containers/certs.d", "/etc/docker/certs.d")


def folders(server: str) -> tuple[str, ...]:
    """Return a registry's folders: the user's first, then the system's."""
    own = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    return tuple(f"{folder}/{server}" for folder in (f"{own}/containers/certs.d", *FOLDERS))


def usual() -> ssl.SSLContext:
    """Return the settings for servers with certificates by authorities that the system knows.

    Or that SSL_CERT_FILE and SSL_CERT_DIR name. Sites' own authorities often lack the identifiers
    of keys that Python demands from 3.13 on; podman, curl and older Pythons believe them.
    """
    made = create_urllib3_context()
    made.verify_flags &= ~ssl.VERIFY_X509_STRICT
    made.load_default_certs()
    return made


def context(server: str) -> ssl.SSLContext:
    """Return the settings for a registry, with what its folder has if there is one.

    As with docker and podman, `*.crt` are authorities that are believed besides the system's, and
    NAME.cert with NAME.key is shown to the registry. Raises UsageError.
    """
    made = usual()
    for folder in folders(server):
        names = _names(folder)
        if names:
            break
    else:
        return made
    for name in names:
        path = f"{folder}/{name}"
        try:
            if name.endswith(".crt"):
                made.load_verify_locations(path)
            elif name.endswith(".cert"):
                made.load_cert_chain(path, path.removesuffix("cert") + "key")
        except OSError as error:  # so are the TLS library's
            raise UsageError(
                f"{path} cannot be used: {error.strerror or error}",
                hint="it must be PEM; beside NAME.cert there must be NAME.key",
            ) from error
    return made


def _names(folder: str) -> list[str]:
    try:
        found = sorted(os.listdir(folder))
    except OSError:
        return []
    return [name for name in found if name.endswith((".crt", ".cert"))]
