"""OpenPGP-signed statements about images, verified with gpgv.

They lie in the folder `signatures.folder`, under REPOSITORY@sha256=DIGEST/signature-N, with or
without the registry before the repository: what `podman image sign --directory` makes.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import tempfile
from typing import TYPE_CHECKING

from apppot import process
from apppot.errors import AppPotError, ImageError
from apppot.image import signatures

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from apppot.image.signatures import Policy

MOST_SIGNATURES = 64
ARMOR = re.compile(
    rb"-----BEGIN PGP PUBLIC KEY BLOCK-----\r?\n(?:[^\n]+\n)*?\r?\n"
    rb"([A-Za-z0-9+/=\s]+?)(?:=[A-Za-z0-9+/]{4}\s*)?-----END PGP PUBLIC KEY BLOCK-----"
)
_BAD = ("BADSIG", "ERRSIG", "EXPSIG", "EXPKEYSIG", "REVKEYSIG")


def check(reference: str, digests: Sequence[str], policy: Policy) -> list[str]:
    """Return why no digest has a good signature; nothing if one has. Raises ImageError."""
    folder = policy.folder
    if not folder:
        raise ImageError(
            f"{policy.file} demands OpenPGP signatures, but says not where they are",
            hint="set 'signatures.folder' there",
        )
    program = process.find_program("gpgv", hint="install the package gpgv")
    problems = []
    with tempfile.TemporaryDirectory(prefix="apppot-keys-") as place:
        keyrings = list(_keyrings(policy.keys, place))
        for digest in digests:
            files = list(_files(folder, reference, digest))
            if not files:
                problems.append(f"there is no signature of {digest} in {folder}")
            for path in files:
                problem = _verify(program, keyrings, path, reference, digest)
                if not problem:
                    return []
                problems.append(f"{path}: {problem}")
    return problems


def _files(folder: str, reference: str, digest: str) -> Iterator[str]:
    """Yield the files that may hold signatures of an image."""
    name = repository(reference)
    for path in dict.fromkeys((name.partition("/")[2], name)):
        where = os.path.join(folder, f"{path}@{digest.replace(':', '=')}")
        for number in range(1, MOST_SIGNATURES + 1):
            file = os.path.join(where, f"signature-{number}")
            if not path or not os.path.isfile(file):
                break
            yield file


def repository(reference: str) -> str:
    """Return a reference without its tag and its digest."""
    name = reference.partition("@")[0]
    colon = name.rfind(":")
    return name[:colon] if colon > name.rfind("/") else name


def _keyrings(keys: Sequence[str], place: str) -> Iterator[str]:
    """Yield the keys' files in the form that gpgv reads; raises ImageError."""
    for number, path in enumerate(keys):
        data = signatures.read(path)
        blocks = ARMOR.findall(data)
        if blocks:
            try:
                data = b"".join(base64.b64decode(block) for block in blocks)
            except binascii.Error as error:
                raise ImageError(f"{path}, which 'signatures.keys' names, is damaged") from error
        target = os.path.join(place, f"{number}.gpg")
        with open(target, "wb") as file:
            file.write(data)
        yield target


def _verify(program: str, keyrings: Sequence[str], path: str, reference: str, digest: str) -> str:
    """Return what is wrong with a signature, or ''."""
    if os.path.getsize(path) > signatures.BIGGEST:
        return "it is too large"
    with tempfile.TemporaryDirectory(prefix="apppot-signed-") as place:
        output = os.path.join(place, "statement")
        words = [program, "--homedir", place, "--status-fd", "1", "--output", output]
        for keyring in keyrings:
            words += ["--keyring", keyring]
        try:
            done = process.run([*words, "--", path], check=False, timeout=60)
        except AppPotError as error:
            return error.message
        said = [
            line.split()[1]
            for line in done.stdout.decode("ascii", "replace").splitlines()
            if line.startswith("[GNUPG:] ")
        ]
        if done.returncode != 0 or "VALIDSIG" not in said or "GOODSIG" not in said:
            return "it is not a good signature by one of the keys"
        if any(word in said for word in _BAD) or not os.path.isfile(output):
            return "it has a bad signature, too"
        with open(output, "rb") as file:
            payload = file.read(signatures.BIGGEST)
    name, problem = signatures.statement(payload, digest, signatures.GPG)
    if problem:
        return problem
    return "" if _same(name, reference) else f"it is for the name {name!r:.200}"


def _same(signed: str, reference: str) -> bool:
    """Tell whether a signed name is the image's: equal, or the same repository by digest."""
    if repository(signed) != repository(reference):
        return False
    return "@" in reference or signed in (reference, repository(reference))
