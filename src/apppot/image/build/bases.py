"""What stages begin from: images of the stores, or nothing."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from apppot.errors import AppPotError, ImageError
from apppot.image import elsewhere, model, reference
from apppot.image.build.cache import State
from apppot.image.build.model import Config
from apppot.image.build.planner import host_platform
from apppot.image.model import Layer
from apppot.image.store import find

if TYPE_CHECKING:
    from collections.abc import Callable

    from apppot.image.model import Descriptor
    from apppot.image.store import Entry, Store


@dataclass(frozen=True)
class Base:
    """What a stage begins from. `document` is the whole configuration, '' the name of nothing."""

    name: str
    digest: str
    state: State
    document: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> Config:
        """Return the part that instructions change."""
        return Config.read(self.document)


def nothing() -> Base:
    """Return what `FROM scratch` begins from."""
    system, _, architecture = host_platform().partition("/")
    path = f"PATH={model.DEFAULT_PATH}"
    document = {"architecture": architecture, "os": system, "config": {"Env": [path]}}
    return Base("", "", State(), document)


def base(name: str, tell: Callable[[str], None]) -> Base:
    """Return the image of a store, fetched from its registry if no store has it.

    Raises UsageError or ImageError.
    """
    store, entry = _find(name, tell)
    manifest = store.manifest(entry)
    where = f"the manifest of '{name}'"
    document = store.document(model.descriptor(manifest["config"], where), "configuration")
    store.image(entry)  # it is whole
    own = host_platform().partition("/")[2]
    architecture = document.get("architecture") or own
    if architecture != own:
        raise ImageError(
            f"the image '{name}' is for {architecture}, and machines here are {own}",
            hint="begin from an image for this architecture",
        )
    layers = tuple(model.descriptor(value, where) for value in manifest["layers"])
    created = document.get("created")
    state = State(layers, created if isinstance(created, str) else "")
    return Base(entry.reference or name, entry.manifest.digest, state, document)


def _find(name: str, tell: Callable[[str], None]) -> tuple[Store, Entry]:
    try:
        return find(name)
    except ImageError as error:
        if not reference.parse(name).name:
            raise
        return _pulled(name, error, tell)


def _pulled(name: str, missing: ImageError, tell: Callable[[str], None]) -> tuple[Store, Entry]:
    """Fetch an image from its registry; where that fails, both reasons are told."""
    from apppot.image.registry.pull import pull

    tell(f"pulling {name}")
    try:
        return find(pull(name).name)
    except AppPotError as error:
        raise ImageError(
            f"{missing.message}, and it cannot be pulled: {error.message}",
            hint=missing.hint or error.hint,
        ) from error


def layer(store: Store, blob: Descriptor) -> Layer:
    """Return a layer that is in some store; raises ImageError."""
    path = store.blob_path(blob.digest)
    if not os.path.exists(path):
        path = elsewhere.path_of(store, blob)
    if not path:
        raise ImageError(
            f"the layer {blob.digest} has gone while it was used",
            hint="was it removed by 'apppot gc' or 'apppot rm'? Build again",
        )
    return Layer(blob.digest, blob.size, path, content=blob.content)
