"""Load images from files, and save them to files, for other programs and other sites."""

from __future__ import annotations

import io
import json
import os
import re
import sys
import tarfile
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any

from apppot.errors import ImageError, UsageError
from apppot.image import archives, arrival, aside, erofs, leaving, model, reference, signatures
from apppot.image import store as stores_
from apppot.image.registry import manifests
from apppot.image.store import BLOBS, stores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from apppot.image.archives import Contained, Files
    from apppot.image.leaving import Leaving
    from apppot.image.model import Descriptor
    from apppot.image.writer import Writer

DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"
_NOT_A_NAME = re.compile(r"[^a-z0-9]+")


@dataclass(frozen=True)
class Loaded:
    """An image that is in the store now."""

    name: str
    digest: str


def load(
    path: str,
    *,
    name: str = "",
    platform: str = "",
    step: Callable[[str], None] = lambda _: None,
) -> list[Loaded]:
    """Load all images of an archive or a layout into the first store; raises AppPotError."""
    wanted = manifests.platform(platform)
    store = stores()[0]
    erofs.mkfs_program()
    loaded = []
    with store.writer() as adding:
        step(f"reading {path}")
        with archives.opened(path, os.path.join(store.path, BLOBS)) as files:
            found = archives.images(files, wanted, path)
            if name and len(found) != 1:
                raise UsageError(f"{path} has {len(found)} images: --name is for one")
            for image in found:
                names = _names(image, path, name)
                for each in names:
                    signatures.check(each, image.digest, None)
                layers = _layers(adding, files, image, step)
                for each in names:
                    digest = arrival.add_image(adding, each, layers, image.config, {})
                    loaded.append(Loaded(each, digest))
    return loaded


def _layers(
    adding: Writer, files: Files, image: Contained, step: Callable[[str], None]
) -> list[Descriptor]:
    """Return an image's layers, made if they are not known; raises ImageError."""
    known = arrival.known(adding.store)
    layers: list[Descriptor] = []
    for number, (blob, diff_id) in enumerate(zip(image.layers, image.diff_ids, strict=True), 1):
        made = known.get(diff_id) or known.get(arrival.key(image.diff_ids[:number]))
        if not made:
            step(f"layer {number} of {len(image.layers)}")
            pieces = archives.checked(files, blob)
            size = files.size(blob.path)
            made = arrival.layer(adding, pieces, size, diff_id=diff_id, below=layers)
            known[arrival.known_as(made)] = made
        layers.append(made)
    return layers


def _names(image: Contained, path: str, name: str) -> list[str]:
    """Return the names that an image gets: the user's, its own, or the file's."""
    if name:
        return [reference.parse_name(name).full]
    stem = os.path.basename(os.path.abspath(path)).lower().partition(".")[0]
    base = _NOT_A_NAME.sub("-", stem).strip("-") or "image"
    names = []
    for text in image.names:
        own = text if ":" in text or "/" in text else f"{base}:{text}"
        try:
            names.append(reference.parse_name(own).full)
        except UsageError as error:
            raise ImageError(f"{path}: {error.message}", hint="name it with --name") from error
    return names or [f"{base}:latest"]


# --- saving --------------------------------------------------------------------------------------


def save(
    images: Sequence[str],
    path: str,
    *,
    docker: bool = False,
    step: Callable[[str], None] = lambda _: None,
) -> None:
    """Write images to an archive, '-' for standard output; raises AppPotError."""
    found = [stores_.find(image) for image in images]
    leaves = [leaving.of(store, entry) for store, entry in found]
    with _target(path) as target, tarfile.open(fileobj=target, mode="w|") as out:
        writing, rows = _Writing(out, step), []
        for leaf in leaves:
            with closing(leaf):
                rows.append(writing.image(leaf, docker=docker))
        if docker:
            writing.add(archives.DOCKER, _json(rows))
        else:
            index = {"schemaVersion": 2, "mediaType": model.INDEX_TYPE, "manifests": rows}
            writing.add(archives.LAYOUT, b'{"imageLayoutVersion":"1.0.0"}')
            writing.add(archives.INDEX, _json(index))


@contextmanager
def _target(path: str) -> Iterator[IO[bytes]]:
    """Give the file to write to, which gets its name when it is whole; raises ImageError."""
    if path == aside.STDOUT:
        aside.check_stdout()
        with aside.explained("to standard output"):
            yield sys.stdout.buffer
            sys.stdout.buffer.flush()
        return
    with aside.explained(path), aside.whole(path) as file:
        yield file


class _Writing:
    """An archive that is being written; the same blob is written once."""

    def __init__(self, out: tarfile.TarFile, step: Callable[[str], None]) -> None:
        self.out = out
        self.step = step
        self.there: set[str] = set()

    def add(self, path: str, data: bytes) -> None:
        """Add a small file."""
        self._add(path, len(data), io.BytesIO(data))

    def _add(self, path: str, size: int, content: IO[bytes]) -> None:
        if path in self.there:
            return
        self.there.add(path)
        info = tarfile.TarInfo(path)
        info.size, info.mode = size, 0o644
        content.seek(0)
        self.out.addfile(info, content)

    def image(self, leaf: Leaving, *, docker: bool) -> dict[str, Any]:
        """Add an image's blobs; return the row of the archive's list that names it."""
        blobs, diff_ids = [], []
        for number in range(len(leaf.layers)):
            self.step(f"{leaf.image.name}: layer {number + 1} of {len(leaf.layers)}")
            blob, diff_id = self._layer(leaf, number, docker=docker)
            blobs.append(blob)
            diff_ids.append(diff_id)
        config = leaf.configuration(diff_ids)
        name = leaf.image.name if not leaf.image.name.startswith("sha256:") else ""
        if docker:
            path = model.digest(config).removeprefix("sha256:") + ".json"
            self.add(path, config)
            paths = [_docker_path(blob) for blob in blobs]
            return {"Config": path, "RepoTags": [name] if name else [], "Layers": paths}
        own = leaving.descriptor(config, model.CONFIG_TYPE)
        self.add(_path(own), config)
        manifest = leaving.manifest(own, blobs)
        row = leaving.descriptor(manifest, model.MANIFEST_TYPE)
        self.add(_path(row), manifest)
        return {**row.json(), **({"annotations": {model.REF_NAME: name}} if name else {})}

    def _layer(self, leaf: Leaving, number: int, *, docker: bool) -> tuple[Descriptor, str]:
        with leaving.room() as file:
            if docker:
                diff_id = leaf.archive(number, file)
                size = file.seek(0, os.SEEK_END)
                blob = model.Descriptor(DOCKER_LAYER, diff_id, size)
                self._add(_docker_path(blob), size, file)
            else:
                blob, diff_id = leaf.packed(number, file)
                self._add(_path(blob), blob.size, file)
        return blob, diff_id


def _path(blob: Descriptor) -> str:
    return "blobs/sha256/" + blob.digest.removeprefix("sha256:")


def _docker_path(blob: Descriptor) -> str:
    return blob.digest.removeprefix("sha256:") + ".tar"


def _json(document: Any) -> bytes:
    return json.dumps(document, sort_keys=True, ensure_ascii=False).encode()
