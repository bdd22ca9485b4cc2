"""Signatures of images from elsewhere: what the configuration demands is verified, or refused.

`cosign`: a signature by one of the keys, in the same repository under the tag `sha256-DIGEST.sig`
(what `cosign sign --key` makes). `gpg`: a signed statement in a folder, as `podman image sign` and
`skopeo copy --sign-by` make it. Both sign the "simple signing" statement, JSON that names the
manifest's digest.
"""

from __future__ import annotations

import base64
import binascii
import fnmatch
import json
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from apppot import config, paths
from apppot.errors import ImageError
from apppot.image import model, usage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Fetch = Callable[[str], bytes | None]
    Verify = Callable[[bytes, bytes], bool]

PAYLOAD_TYPE = "application/vnd.dev.cosign.simplesigning.v1+json"
SIGNATURE = "dev.cosignproject.cosign/signature"
COSIGN, GPG = "cosign container image signature", "atomic container signature"
MOST_SIGNATURES = 64
BIGGEST = 4 << 20


@dataclass(frozen=True)
class Policy:
    """What one configuration file demands."""

    file: str
    require: str
    keys: tuple[str, ...]
    folder: str
    exceptions: tuple[str, ...]

    def __contains__(self, reference: str) -> bool:
        """Tell whether images of that name need a signature."""
        return self.require != "none" and not any(
            fnmatch.fnmatchcase(reference, pattern) for pattern in self.exceptions
        )


def policies() -> list[Policy]:
    """Return what each configuration file demands, the site's first; raises UsageError.

    All must be met, so that no file undoes another. One that names no keys or no folder has those
    of the file before.
    """
    found: list[Policy] = []
    for file, contents in config.binding():
        mine = {key.removeprefix("signatures."): value for key, value in contents.items()}
        before = found[-1] if found else Policy("", "", (), "", ())
        found.append(
            Policy(
                file,
                mine.get("require", "none"),
                mine.get("keys", before.keys),
                mine.get("folder", before.folder),
                mine.get("except", ()),
            )
        )
    return found


def check(reference: str, digests: str | Sequence[str], fetch: Fetch | None) -> None:
    """Refuse an image without a good signature, if the configuration demands one.

    `reference` is its full name with the registry, `digests` are its manifest's and those of the
    indexes that led to it: one of them must be signed. `fetch` gives the manifest of a tag or the
    blob of a digest in the image's own repository, None if it is not there; it is None if the image
    comes from where there are no signatures. Raises ImageError and UsageError.
    """
    names = (digests,) if isinstance(digests, str) else tuple(digests)
    for policy in policies():
        if reference in policy:
            _check(policy, reference, names, fetch)


def _check(policy: Policy, reference: str, names: Sequence[str], fetch: Fetch | None) -> None:
    if not policy.keys:
        raise ImageError(
            f"{policy.file} demands a signature of '{reference}', but names no key",
            hint="set 'signatures.keys' there (see 'apppot config'), or except the image",
        )
    if policy.require == "gpg":
        from apppot.image import gpg

        problems = gpg.check(reference, names, policy)
    else:
        problems = _cosign(names, policy, fetch)
    if problems:
        site = "; your own configuration cannot undo it" if policy.file == paths.SITE_CONFIG else ""
        raise ImageError(
            f"'{reference}' ({names[0]}) is refused: " + "; ".join(dict.fromkeys(problems)),
            hint=f"{policy.file} demands a signature by a key of {', '.join(policy.keys)}{site}",
        )


def _cosign(digests: Sequence[str], policy: Policy, fetch: Fetch | None) -> list[str]:
    """Return why no digest has a good cosign signature; nothing if one has."""
    keys = [_public_key(path) for path in policy.keys]
    if fetch is None:
        return ["it comes from a place where there are no signatures"]
    problems = []
    for digest in digests:
        tag = digest.replace(":", "-") + ".sig"
        data = fetch(tag)
        if data is None:
            problems.append(f"there is no signature (tag {tag})")
            continue
        problem = _signed(data, digest, keys, fetch)
        if not problem:
            return []
        problems.append(problem)
    return problems


def _signed(manifest: bytes, digest: str, keys: Sequence[Verify], fetch: Fetch) -> str:
    """Return why no signature that a manifest lists is good, '' if one is."""
    where = "the list of signatures"
    try:
        _, layers = usage.parts(_json(manifest, where), where)
    except ImageError as error:
        return error.message
    problems = []
    for layer in layers[: MOST_SIGNATURES + 1]:
        if layer.media_type == PAYLOAD_TYPE:
            problem = _signature(layer, digest, keys, fetch)
            if not problem:
                return ""
            problems.append(problem)
    return "; ".join(dict.fromkeys(problems)) or f"{where} is empty"


def _signature(layer: model.Descriptor, digest: str, keys: Sequence[Verify], fetch: Fetch) -> str:
    """Return what is wrong with one signature, or ''."""
    if layer.size > BIGGEST:
        return f"a signed statement of {layer.size} bytes"
    payload = fetch(layer.digest)
    if payload is None or model.digest(payload) != layer.digest:
        return "a signed statement is missing or damaged"
    try:
        signature = base64.b64decode(dict(layer.extra).get(SIGNATURE, ""), validate=True)
    except (binascii.Error, ValueError):
        return "a signature is not base64"
    if not any(verify(signature, payload) for verify in keys):
        return "a signature is not by one of the keys"
    return statement(payload, digest, COSIGN)[1]


def statement(payload: bytes, digest: str, kind: str) -> tuple[str, str]:
    """Return the name in a signed statement, and what is wrong with the statement or ''."""
    try:
        critical = _json(payload, "the signed statement")["critical"]
        name, found = critical["identity"]["docker-reference"], critical["type"]
        signed = critical["image"]["docker-manifest-digest"]
    except (ImageError, TypeError, KeyError):
        return "", "the signed statement has not the form that it should have"
    if found != kind or not isinstance(name, str):
        return "", f"the signed statement is of another type: {found!r:.60}"
    return name, "" if signed == digest else f"the statement is about {signed!r:.90}"


def _json(data: bytes, where: str) -> Any:
    """Return parsed JSON; raises ImageError."""
    try:
        if len(data) <= BIGGEST:
            return json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ImageError(f"{where} is not JSON: {error}") from error
    raise ImageError(f"{where} has {len(data)} bytes")


def _public_key(path: str) -> Verify:
    """Return the function that verifies signatures by a PEM file's key; raises ImageError."""
    try:
        from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric import ec, ed25519
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError as error:
        raise ImageError(
            "the configuration demands signatures, but the library that verifies them is missing",
            hint="pip install 'apppot[signatures]'",
        ) from error
    try:
        key = load_pem_public_key(read(path))
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ImageError(
            f"{path}, which 'signatures.keys' names, is not a public key: {error}",
            hint="it must be PEM, such as cosign's cosign.pub",
        ) from error
    if not isinstance(key, ec.EllipticCurvePublicKey | ed25519.Ed25519PublicKey):
        raise ImageError(f"{path}: only ECDSA and Ed25519 keys are known")

    def verify(signature: bytes, payload: bytes) -> bool:
        try:
            if isinstance(key, ed25519.Ed25519PublicKey):
                key.verify(signature, payload)
            else:
                key.verify(signature, payload, ec.ECDSA(SHA256()))
        except InvalidSignature:
            return False
        return True

    return verify


def read(path: str) -> bytes:
    """Return a key file's content; raises ImageError."""
    try:
        if os.path.getsize(path) <= BIGGEST:
            with open(path, "rb") as file:
                return file.read(BIGGEST)
    except OSError as error:
        raise ImageError(
            f"cannot read {path}, which 'signatures.keys' names: {error.strerror}"
        ) from error
    raise ImageError(f"{path}, which 'signatures.keys' names, has more than {BIGGEST >> 20} MiB")
