"""Read a whole store and name each damaged object, and the images that it breaks.

Nothing is locked or changed, so that this works on stores that are only read, and while others
write: what they have removed in the meantime is no damage.
"""

from __future__ import annotations

import json
import os
import stat
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from apppot.errors import ImageError
from apppot.image import cleaning, elsewhere, erofs, locks, model, usage, writer
from apppot.image.reference import is_digest
from apppot.image.store import BIGGEST_JSON, BLOBS, INDEX, LAYOUT, Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from apppot.image.model import Descriptor

LOCKS = (writer.BLOBS_LOCK, writer.INDEX_LOCK, locks.FOLDER)
KNOWN = frozenset({INDEX, LAYOUT, "blobs", cleaning.PARTIAL, *LOCKS})


@dataclass(frozen=True)
class Problem:
    """What is wrong with an object (a path), and which images cannot be used for it."""

    path: str
    what: str
    images: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    """What was found in a store. `notes` is what does no harm, but ought not to be there."""

    store: str
    images: int = 0
    blobs: int = 0
    size: int = 0
    damage: tuple[Problem, ...] = ()
    notes: tuple[Problem, ...] = ()

    def json(self) -> dict[str, Any]:
        """Return everything for machines to read."""
        return {**asdict(self), "sound": not self.damage}


@dataclass
class _Check:
    """The state of one store's check."""

    store: Store
    read: dict[str, str]  # path -> what is wrong with the blob there, '' if nothing is
    broken: dict[str, tuple[str, set[str]]] = field(default_factory=dict)  # path -> what, images
    notes: list[Problem] = field(default_factory=list)
    needed: set[str] = field(default_factory=set)

    def damage(self, path: str, what: str, *images: str) -> None:
        """Note a damaged object, once, with all the images that it breaks."""
        _, names = self.broken.setdefault(path, (what, set()))
        names.update(images)


def check(store: Store, known: dict[str, str] | None = None) -> Report:
    """Read a store and return what is there; `known` keeps blobs from being read twice."""
    state = _Check(store, {} if known is None else known)
    if not os.path.lexists(store.path):
        return Report(store.path)
    named = list(_entries(state))
    for name, manifest in named:
        _image(state, name, manifest)
    blobs, size = _folder(state)
    _layout(state)
    _permissions(state)
    damage = tuple(_confirmed(state, dict(named))) if state.broken else ()
    return Report(store.path, len(named), blobs, size, damage, tuple(state.notes))


def _confirmed(state: _Check, named: dict[str, Descriptor]) -> Iterator[Problem]:
    """Yield what is damaged still: images may have been removed, replaced or made again."""
    left = dict(_entries(_Check(state.store, {})))
    for path, (what, images) in sorted(state.broken.items()):
        same = (name for name in images if left.get(name) == named.get(name))
        still = tuple(sorted(same))
        if images and not still:
            continue
        if state.read.get(path) and not _wrong(path):
            continue
        yield Problem(path, what, still)


def _entries(state: _Check) -> Iterator[tuple[str, Descriptor]]:
    """Yield the name and the manifest of each image; what the index has wrong is damage."""
    index = os.path.join(state.store.path, INDEX)
    try:
        values = state.store.index()["manifests"]
    except ImageError as error:
        state.damage(index, error.message)
        return
    for number, value in enumerate(values):
        try:
            manifest = model.descriptor(value, f"line {number} of the index")
        except ImageError as error:
            state.damage(index, error.message)
            continue
        texts = dict(manifest.extra)
        name = texts.get(model.REF_NAME) or texts.get(model.CACHE) or manifest.digest
        if not name.isprintable():
            state.damage(index, f"line {number} of the index has the name {name!r:.200}")
            name = manifest.digest
        yield name, manifest


def _image(state: _Check, name: str, manifest: Descriptor) -> None:
    """Check all blobs of an image."""
    pending = [manifest]
    seen: set[str] = set()
    while pending:
        blob = pending.pop()
        if blob.digest in seen:
            continue
        seen.add(blob.digest)
        document = _document(state, blob, name)
        if document is None:
            continue
        path = state.store.blob_path(blob.digest)
        try:
            manifests, leaves = usage.parts(document, "it")
        except ImageError as error:
            state.damage(path, error.message, name)
            continue
        pending.extend(manifests)
        for leaf in leaves:
            _leaf(state, leaf, name)
        if not manifests and not [leaf for leaf in leaves if leaf.media_type == model.LAYER_TYPE]:
            state.notes.append(Problem(path, f"'{name}' is no image that can be booted"))


def _leaf(state: _Check, blob: Descriptor, name: str) -> None:
    """Check a configuration, a layer, or whatever else a manifest names."""
    if blob.media_type == model.CONFIG_TYPE:
        document = _document(state, blob, name)
        if document is not None:
            try:
                model.config(document, "it")
            except ImageError as error:
                state.damage(state.store.blob_path(blob.digest), error.message, name)
        return
    path = _blob(state, blob, name)
    if path and blob.media_type == model.LAYER_TYPE:
        try:
            erofs.check(path)
        except ImageError as error:
            state.damage(path, error.message, name)


def _document(state: _Check, blob: Descriptor, name: str) -> Any:
    """Return a sound JSON blob, None if it is not."""
    path = _blob(state, blob, name)
    if not path:
        return None
    if blob.size > BIGGEST_JSON:
        state.damage(path, f"it has {blob.size} bytes, which is too much for JSON", name)
        return None
    try:
        with open(path, "rb") as file:
            return json.loads(file.read(BIGGEST_JSON))
    except (OSError, ValueError, RecursionError) as error:
        state.damage(path, f"it is not JSON: {error}", name)
        return None


def _blob(state: _Check, blob: Descriptor, name: str) -> str:
    """Return the path of a blob that has its digest and its size, '' if it is damaged."""
    state.needed.add(blob.digest)
    path = state.store.blob_path(blob.digest)
    if not os.path.lexists(path):
        path = elsewhere.path_of(state.store, blob) or path
    what = _digest(state, path)
    if not what:
        try:
            found = os.stat(path).st_size
        except OSError as error:
            what = error.strerror or "is gone"
        else:
            if found == blob.size:
                return path
            what = f"it has {found} bytes, '{name}' says {blob.size}"
    state.damage(path, what, name)
    return ""


def _digest(state: _Check, path: str) -> str:
    """Return what is wrong with the blob at a path that is named by its digest, or ''."""
    if path not in state.read:
        state.read[path] = _wrong(path)
    return state.read[path]


def _wrong(path: str) -> str:
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            return "it is not a file"
        with open(path, "rb") as file:
            digest, _ = writer.digest_of(file)
    except FileNotFoundError:
        return "it is missing"
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    name = os.path.basename(path)
    return "" if digest == f"sha256:{name}" else f"its content has the digest {digest}"


def _folder(state: _Check) -> tuple[int, int]:
    """Check the blobs that no image needs, and note what does not belong there."""
    folder = os.path.join(state.store.path, BLOBS)
    blobs = size = 0
    for path in _listed(state, folder):
        name = os.path.basename(path)
        if not is_digest(f"sha256:{name}"):
            _stray(state, path)
            continue
        try:
            size += os.stat(path).st_size
        except OSError:
            continue  # removed in the meantime, or found already
        blobs += 1
        if f"sha256:{name}" not in state.needed:
            what = _digest(state, path)
            if not what:
                state.notes.append(Problem(path, "no image needs it"))
            elif os.path.lexists(path):
                state.damage(path, what)
    _leftovers(state)
    return blobs, size


def _leftovers(state: _Check) -> None:
    """Note what does not belong to the store, or not for long."""
    for path in _listed(state, state.store.path):
        if os.path.basename(path) not in KNOWN:
            _stray(state, path)
    for path in _listed(state, os.path.join(state.store.path, cleaning.PARTIAL)):
        state.notes.append(Problem(path, "of a pull that has not ended; the next one goes on"))
    with suppress(OSError):
        for path in locks.leftovers(state.store.path, now=time.time()):
            state.notes.append(Problem(path, "left by a killed writer"))


def _stray(state: _Check, path: str) -> None:
    temporary = os.path.basename(path).startswith(writer.TEMPORARY)
    what = "left by a killed writer, or still being written" if temporary else "not of the store"
    state.notes.append(Problem(path, what))


def _listed(state: _Check, folder: str) -> list[str]:
    try:
        return [os.path.join(folder, name) for name in sorted(os.listdir(folder))]
    except FileNotFoundError:
        return []
    except OSError as error:
        state.damage(folder, f"it cannot be listed: {error.strerror}")
        return []


def _layout(state: _Check) -> None:
    """Check the file that tells other programs what this folder is."""
    path = os.path.join(state.store.path, LAYOUT)
    if not os.path.exists(os.path.join(state.store.path, INDEX)):
        return
    try:
        with open(path, "rb") as file:
            document = json.loads(file.read(BIGGEST_JSON))
    except (OSError, ValueError, RecursionError) as error:
        state.notes.append(Problem(path, f"other programs will not know the store: {error}"))
        return
    if not isinstance(document, dict) or document.get("imageLayoutVersion") != "1.0.0":
        state.notes.append(Problem(path, "other programs will not know the store"))


def _permissions(state: _Check) -> None:
    """Note what others could change, or could not read although they may read the store."""
    root = state.store.path
    public = _mode(root) & 0o005 == 0o005  # noqa: PLR2004
    folder = os.path.join(root, BLOBS)
    tests: list[tuple[str, Callable[[int], bool]]] = [
        ("other users can write to it", lambda mode: bool(mode & 0o002)),
        ("other users cannot read it", lambda mode: public and not mode & 0o004),
    ]
    paths = [root, os.path.join(root, "blobs"), folder, os.path.join(root, INDEX)]
    paths += [p for p in _listed(state, folder) if is_digest(f"sha256:{os.path.basename(p)}")]
    for path in paths:
        mode = _mode(path)
        if mode >= 0:
            state.notes += [Problem(path, what) for what, wrong in tests if wrong(mode)]


def _mode(path: str) -> int:
    try:
        return stat.S_IMODE(os.stat(path).st_mode)
    except OSError:
        return -1
