"""What an image is: frozen dataclasses, and their strict reading from OCI JSON."""

from __future__ import annotations

from apppot.errors import ImageError
from apppot.image.reference import is_digest
from apppot.lean import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.apppot.layer.v1.erofs"
REF_NAME = "org.opencontainers.image.ref.name"
CREATED = "org.opencontainers.image.created"
CONTENT = "vnd.apppot.content"  # of a layer's descriptor: what is in it, however it was made
CACHE = "vnd.apppot.cache"  # of an entry of the index: it is no image of the user's, and its key
USED = "vnd.apppot.used"  # of such an entry: when it was used last
BASE_NAME = "vnd.apppot.base.name"  # of a manifest
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"  # where no image says
ORIGIN_DIGEST = "vnd.apppot.origin.digest"  # of a manifest and its entry: the registry's digest


@dataclass(frozen=True)
class Descriptor:
    """A blob as a manifest or an index names it.

    `content` is a layer's content digest, '' if it is not known; `extra` are more annotations.
    """

    media_type: str
    digest: str
    size: int
    content: str = ""
    extra: tuple[tuple[str, str], ...] = ()

    def json(self) -> dict[str, Any]:
        """Return the OCI descriptor."""
        document = {"mediaType": self.media_type, "digest": self.digest, "size": self.size}
        annotations = dict(self.extra)
        if self.content:
            annotations[CONTENT] = self.content
        return {**document, "annotations": annotations} if annotations else document


@dataclass(frozen=True)
class Layer:
    """One read-only EROFS file."""

    digest: str
    size: int
    path: str
    offset: int = 0  # of the file system in the file, in bytes
    type: str = ""  # of the file system; "": EROFS
    content: str = ""


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
            annotations = value.get("annotations")
            if not annotations:
                return Descriptor(kind, digest, size)
            content, extra = _annotations(annotations, where)
            return Descriptor(kind, digest, size, content, extra)
    raise ImageError(f"{where} has a descriptor without a proper digest and size: {value!r:.200}")


def _annotations(value: Any, where: str) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Return the content digest and the other annotations of a descriptor; raises ImageError."""
    items = value.items() if isinstance(value, dict) else ()
    texts = {key: text for key, text in items if isinstance(text, str)}
    content = texts.pop(CONTENT, "")
    if content and not is_digest(content):
        raise ImageError(f"{where} has a descriptor with a content digest that is none")
    return content, tuple(texts.items())


def digest(data: bytes) -> str:
    """Return the digest of `data`."""
    # hashlib would load the TLS library, which takes longer than everything else here.
    try:
        from _sha2 import sha256  # type: ignore[import-not-found]
    except ImportError:
        try:
            from _sha256 import sha256  # type: ignore[import-not-found]
        except ImportError:
            from hashlib import sha256
    return f"sha256:{sha256(data).hexdigest()}"


def chain(contents: Sequence[str]) -> str:
    """Return the digest of a stack of layers, lowest first: the rule of OCI's ChainID.

    `contents` are the layers' content digests; for a layer that has none, its own digest.
    """
    top = ""
    for content in contents:
        top = digest(f"{top} {content}".encode()) if top else content
    return top


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
