"""What an image is: frozen dataclasses, and their strict reading from OCI JSON."""

from __future__ import annotations

from apppot.errors import ImageError
from apppot.image.reference import is_digest
from apppot.lean import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from typing import Any

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.apppot.layer.v1.erofs"
REF_NAME = "org.opencontainers.image.ref.name"
CREATED = "org.opencontainers.image.created"


@dataclass(frozen=True)
class Descriptor:
    """A blob as a manifest or an index names it."""

    media_type: str
    digest: str
    size: int

    def json(self) -> dict[str, Any]:
        """Return the OCI descriptor."""
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


@dataclass(frozen=True)
class Layer:
    """One read-only EROFS file."""

    digest: str
    size: int
    path: str


@dataclass(frozen=True)
class ImageConfig:
    """How an image wants to be run."""

    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    working_dir: str = ""
    user: str = ""
    architecture: str = ""
    created: str = ""


@dataclass(frozen=True)
class Image:
    """An image of a store: its manifest's digest, and its layers from the lowest to the highest."""

    name: str
    digest: str
    layers: tuple[Layer, ...]
    config: ImageConfig


def descriptor(value: Any, where: str) -> Descriptor:
    """Return the descriptor that JSON `value` holds; raises ImageError."""
    if isinstance(value, dict):
        digest, size, kind = value.get("digest"), value.get("size"), value.get("mediaType", "")
        if (
            isinstance(digest, str)
            and is_digest(digest)
            and isinstance(size, int)
            and size >= 0
            and isinstance(kind, str)
        ):
            return Descriptor(kind, digest, size)
    raise ImageError(f"{where} has a descriptor without a proper digest and size: {value!r:.200}")


def config(document: Any, where: str) -> ImageConfig:
    """Return what the OCI configuration `document` says; raises ImageError."""
    if not isinstance(document, dict):
        raise ImageError(f"{where} is not a JSON object")
    inner = document.get("config") or {}
    if not isinstance(inner, dict):
        raise ImageError(f"{where}: 'config' is not a JSON object")
    return ImageConfig(
        env=_texts(inner, "Env", where),
        entrypoint=_texts(inner, "Entrypoint", where),
        cmd=_texts(inner, "Cmd", where),
        working_dir=_text(inner, "WorkingDir", where),
        user=_text(inner, "User", where),
        architecture=_text(document, "architecture", where),
        created=_text(document, "created", where),
    )


def _texts(document: dict[str, Any], key: str, where: str) -> tuple[str, ...]:
    """Return a list of texts, or () if `key` is missing or null."""
    value = document.get(key)
    if value is None:
        return ()
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    raise ImageError(f"{where}: '{key}' is not a list of texts")


def _text(document: dict[str, Any], key: str, where: str) -> str:
    """Return a text, or '' if `key` is missing or null."""
    value = document.get(key)
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    raise ImageError(f"{where}: '{key}' is not a text")
