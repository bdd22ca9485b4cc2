"""Check a kit's files against its manifest."""

from __future__ import annotations

import hashlib
import os
import stat

from apppot.errors import KitError
from apppot.kit import manifest as manifests
from apppot.kit.manifest import File, Manifest

MAX_SHOWN = 5


def sha256_of(path: str) -> str:
    """Return the SHA-256 digest of a file's content in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def entry_of(path: str) -> File:
    """Return what a manifest says of the file at `path`."""
    found = os.stat(path)
    return File(sha256_of(path), found.st_size, bool(found.st_mode & 0o100))


def problem(path: str, expected: File) -> str:
    """Return what is wrong with the file at `path`, or ''."""
    try:
        found = os.lstat(path)
        regular = stat.S_ISREG(found.st_mode)
        digest = sha256_of(path) if regular and found.st_size == expected.size else ""
    except FileNotFoundError:
        return "is missing"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    what = ""
    if not regular:
        what = "is not a regular file"
    elif found.st_size != expected.size:
        what = f"has {found.st_size} bytes instead of {expected.size}"
    elif digest != expected.sha256:
        what = f"has the SHA-256 digest {digest[:16]}... instead of {expected.sha256[:16]}..."
    elif expected.executable and not found.st_mode & 0o111:
        what = "is not executable"
    return what


def problems(path: str, manifest: Manifest) -> list[str]:
    """Return what is wrong with the files of the kit in `path`, one text for each."""
    found = ((name, problem(f"{path}/{name}", entry)) for name, entry in manifest.files.items())
    return [f"{name} {what}" for name, what in found if what]


def check(path: str) -> Manifest:
    """Return the manifest of the kit in `path` after hashing all its files.

    Raises KitError that names what differs.
    """
    manifest = manifests.load(path)
    wrong = problems(path, manifest)
    if wrong:
        more = f", and {len(wrong) - MAX_SHOWN} more" if len(wrong) > MAX_SHOWN else ""
        raise KitError(
            f"the kit in {path} is damaged: " + ", ".join(wrong[:MAX_SHOWN]) + more,
            hint=manifests.FOREIGN_HINT,
        )
    return manifest
