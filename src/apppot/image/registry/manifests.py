"""Read manifests, indexes and configurations of other programs, as strictly as strangers' need."""

from __future__ import annotations

import json
import platform as host
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from apppot.errors import ImageError, UsageError
from apppot.image import model
from apppot.image.reference import is_digest

if TYPE_CHECKING:
    from collections.abc import Sequence

    from apppot.image.model import Descriptor

DOCKER = "application/vnd.docker."
DOCKER_MANIFEST = f"{DOCKER}distribution.manifest.v2+json"
DOCKER_INDEX = f"{DOCKER}distribution.manifest.list.v2+json"
DOCKER_CONFIG = f"{DOCKER}container.image.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
ACCEPT = f"{model.MANIFEST_TYPE}, {model.INDEX_TYPE}, {DOCKER_MANIFEST}, {DOCKER_INDEX}"
BIGGEST_MANIFEST = 4 << 20
BIGGEST_CONFIG = 16 << 20
MOST_LAYERS = 500
BIGGEST_BLOB = 1 << 43
_LAYERS = ("application/vnd.oci.image.layer.", f"{DOCKER}image.rootfs.")
_MACHINES = {"x86_64": "amd64", "aarch64": "arm64", "i686": "386", "ppc64le": "ppc64le"}


@dataclass(frozen=True)
class Platform:
    """What a system is made for."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


@dataclass(frozen=True)
class Manifest:
    """What an image is made of, from the lowest layer to the highest."""

    config: Descriptor
    layers: tuple[Descriptor, ...]


def platform(text: str) -> Platform:
    """Return the platform that a user named, this computer's if it is ''; raises UsageError."""
    if not text:
        machine = host.machine()
        return Platform("linux", _MACHINES.get(machine, machine))
    parts = text.split("/")
    if len(parts) == 1:
        parts = ["linux", *parts]
    if len(parts) > 3 or not all(parts):  # noqa: PLR2004
        raise UsageError(
            f"'{text}' is not a platform", hint="OS/ARCHITECTURE[/VARIANT], such as linux/amd64"
        )
    return Platform(*parts)


def document(data: bytes, what: str) -> dict[str, Any]:
    """Return a parsed JSON object; raises ImageError."""
    try:
        found = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ImageError(f"{what} is not JSON: {str(error)[:200]}") from error
    if not isinstance(found, dict):
        raise ImageError(f"{what} is not a JSON object")
    return found


def is_index(found: dict[str, Any]) -> bool:
    """Tell whether a document names several images."""
    kind = found.get("mediaType")
    return kind in (model.INDEX_TYPE, DOCKER_INDEX) or (
        "manifests" in found and "layers" not in found
    )


def choose(index: dict[str, Any], wanted: Platform, what: str) -> Descriptor:
    """Return the manifest for a platform; raises ImageError."""
    there = _list(index, "manifests", what)
    found: list[tuple[Platform, Descriptor]] = []
    for value in there:
        given = value.get("platform") if isinstance(value, dict) else None
        given = given if isinstance(given, dict) else {}
        texts = [str(given.get(key) or "")[:40] for key in ("os", "architecture", "variant")]
        if texts[0] != "unknown":  # not an image, but what is said about one
            found.append((Platform(*texts), model.descriptor(value, what)))
    if len(found) == 1 and not found[0][0].os:
        return found[0][1]
    same = [
        (each, blob)
        for each, blob in found
        if (each.os, each.architecture) == (wanted.os, wanted.architecture)
    ]
    exact = [pair for pair in same if not wanted.variant or pair[0].variant == wanted.variant]
    for _, blob in exact:
        return blob
    names = ", ".join(dict.fromkeys(str(each) for each, _ in found)) or "none"
    raise ImageError(f"{what} has no image for {wanted}", hint=f"it has: {names}"[:1000])


def _list(found: dict[str, Any], key: str, what: str) -> Sequence[Any]:
    value = found.get(key)
    if not isinstance(value, list):
        raise ImageError(f"{what} has no list of {key}")
    if len(value) > MOST_LAYERS:
        raise ImageError(f"{what} lists {len(value)} {key}; {MOST_LAYERS} are the most")
    return value


def manifest(found: dict[str, Any], what: str) -> Manifest:
    """Return what a manifest says; raises ImageError."""
    if found.get("schemaVersion") == 1:
        raise ImageError(f"{what} is of Docker's first form, which is no longer in use")
    config = model.descriptor(found.get("config"), what)
    if config.media_type not in {model.CONFIG_TYPE, DOCKER_CONFIG}:
        raise ImageError(
            f"{what} is not that of an image: its configuration is of the type"
            f" {config.media_type[:100]!r}"
        )
    if config.size > BIGGEST_CONFIG:
        raise ImageError(f"{what} has a configuration of {config.size} bytes")
    layers = tuple(model.descriptor(value, what) for value in _list(found, "layers", what))
    for layer in layers:
        if not layer.media_type.startswith(_LAYERS):
            raise ImageError(f"{what} has a layer of the type {layer.media_type[:100]!r}")
        if layer.size > BIGGEST_BLOB:
            raise ImageError(f"{what} has a layer of {layer.size} bytes")
    if not layers:
        raise ImageError(f"{what} has no layers: there is nothing to boot")
    return Manifest(config, layers)


def diff_ids(data: bytes, count: int, what: str) -> tuple[str, ...]:
    """Return the digests of the uncompressed layers that a configuration has; raises ImageError."""
    found = document(data, what)
    model.config(found, what)
    system = found.get("os", "linux")
    if system not in {"linux", ""}:
        raise ImageError(f"{what} is for the system {str(system)[:40]!r}, not for Linux")
    rootfs = found.get("rootfs")
    listed = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    if not isinstance(listed, list) or len(listed) != count:
        raise ImageError(f"{what} does not have a digest for each of {count} layers")
    for digest in listed:
        if not (isinstance(digest, str) and is_digest(digest)):
            raise ImageError(f"{what} has a layer's digest that is none: {str(digest)[:80]!r}")
    return tuple(listed)


def check_platform(data: bytes, wanted: Platform, what: str) -> None:
    """Check that an image is for the platform that was asked for; raises ImageError."""
    architecture = document(data, what).get("architecture")
    if architecture and architecture != wanted.architecture:
        raise ImageError(
            f"{what} is for the architecture {str(architecture)[:40]!r}, not for"
            f" '{wanted.architecture}'",
            hint=f"to have it all the same: --platform linux/{str(architecture)[:40]}",
        )
