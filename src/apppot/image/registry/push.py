"""Push an image: layers that the registry lacks are archived by a machine, and sent."""

from __future__ import annotations

import tempfile
from contextlib import closing
from dataclasses import dataclass
from typing import TYPE_CHECKING

from apppot.image import arrival, leaving, model
from apppot.image import store as stores_
from apppot.image.registry import names
from apppot.image.registry.client import Repository

if TYPE_CHECKING:
    from collections.abc import Callable

    from apppot.image.leaving import Leaving
    from apppot.image.model import Descriptor


@dataclass(frozen=True)
class Pushed:
    """What a registry has got: the image's reference and digest there; `sent` are bytes."""

    name: str
    digest: str
    sent: int


def push(
    image: str,
    text: str,
    *,
    plain_http: bool = False,
    step: Callable[[str], None] = lambda _: None,
) -> Pushed:
    """Send an image to where `text` leads; raises AppPotError."""
    place = names.parse(text)
    store, entry = stores_.find(image)
    repository = Repository(place, plain_http=plain_http)
    with closing(leaving.of(store, entry)) as leaves:
        return _push(repository, leaves, step)


def _push(repository: Repository, leaves: Leaving, step: Callable[[str], None]) -> Pushed:
    place = repository.place
    step(f"asking {place.host}")
    sent = 0
    blobs: list[Descriptor] = []
    diff_ids: list[str] = []
    for number in range(len(leaves.layers)):
        blob, diff_id, size = _layer(repository, leaves, number, step)
        blobs.append(blob)
        diff_ids.append(diff_id)
        sent += size
    config = leaves.configuration(diff_ids)
    own = leaving.descriptor(config, model.CONFIG_TYPE)
    sent += _small(repository, own, config)
    manifest = leaving.manifest(own, blobs)
    digest = repository.put_manifest(manifest, model.MANIFEST_TYPE, place.version)
    return Pushed(str(place), digest, sent + len(manifest))


def _small(repository: Repository, blob: Descriptor, data: bytes) -> int:
    """Send a small blob, return how much was sent."""
    if repository.has(blob.digest):
        return 0
    with tempfile.TemporaryFile() as file:
        file.write(data)
        repository.upload(blob.digest, blob.size, file)
    return blob.size


def _layer(
    repository: Repository, leaves: Leaving, number: int, step: Callable[[str], None]
) -> tuple[Descriptor, str, int]:
    """Return a layer's blob in the registry, its archive's digest, and how much was sent."""
    label = f"layer {number + 1} of {len(leaves.layers)}"
    layer = leaves.layers[number]
    diff_id = dict(layer.extra).get(arrival.DIFF_ID, "")
    origin = arrival.origin_of(layer)
    if origin and diff_id:
        step(f"{label}: looking for it")
        if repository.has(origin.digest) or _mounted(repository, leaves, origin.digest):
            return _oci(origin), diff_id, 0
    with leaving.room() as packed:
        step(f"{label}: archiving")
        blob, diff_id = leaves.packed(number, packed)
        if repository.has(blob.digest):
            return blob, diff_id, 0
        step(f"{label}: sending {blob.size >> 20} MiB")
        repository.upload(blob.digest, blob.size, packed)
    return blob, diff_id, blob.size


def _mounted(repository: Repository, leaves: Leaving, digest: str) -> bool:
    """Tell whether a blob could be had from the repository that the image was pulled from."""
    host, _, rest = leaves.origin.partition("/")
    source = rest.partition("@")[0].rpartition(":")[0] or rest.partition("@")[0]
    return host == repository.place.host and bool(source) and repository.mount(digest, source)


def _oci(origin: Descriptor) -> Descriptor:
    """Return a blob with OCI's name for its type: Docker's may not stand in OCI's manifests."""
    from dataclasses import replace

    kind = origin.media_type
    if kind.startswith("application/vnd.docker."):
        suffix = "+gzip" if "gzip" in kind else "+zstd" if "zstd" in kind else ""
        kind = f"application/vnd.oci.image.layer.v1.tar{suffix}"
    return replace(origin, media_type=kind)
