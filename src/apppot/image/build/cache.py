"""The build cache: what a step's result is known by, and where results are kept.

A result is an entry of the store's index that has no name, only a key: an image of all layers up to
that step. So it keeps its layers from being removed, and can be booted.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from apppot.errors import ImageError, UsageError
from apppot.image import model

if TYPE_CHECKING:
    from collections.abc import Iterable

    from apppot.image.build.model import Copy, Folder, Run
    from apppot.image.model import Descriptor
    from apppot.image.store import Entry, Store
    from apppot.image.writer import Writer

VERSION = 1  # results of other versions are not used
COMMENT = "a step of 'apppot build'"


@dataclass(frozen=True)
class State:
    """A file system at some point of a build: its layers, and when the last one was made."""

    layers: tuple[Descriptor, ...] = ()
    created: str = ""

    @property
    def chain(self) -> str:
        """What the file system is known by."""
        return model.chain([layer.content or layer.digest for layer in self.layers])


def run_key(before: State, run: Run) -> str:
    """Return the key of a RUN. Proxies and the machine's size do not count."""
    said = asdict(run)
    del said["proxies"]
    return _key("run", before, said)


def folder_key(before: State, folder: Folder) -> str:
    """Return the key of a WORKDIR."""
    return _key("workdir", before, asdict(folder))


def copy_key(before: State, copy: Copy, source: str) -> str:
    """Return the key of a COPY or ADD of files that are known by `source`.

    How they are named in the context does not count, only where they go.
    """
    said = {"target": copy.target, "owner": copy.owner, "mode": copy.mode}
    return _key("copy", before, {**said, "source": source})


def _key(kind: str, before: State, said: dict[str, Any]) -> str:
    document = {"version": VERSION, "kind": kind, "before": before.chain, "said": said}
    text = json.dumps(document, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()


class Cache:
    """The results that a store keeps. Made once per build; the store must be locked for writing."""

    def __init__(self, store: Store, writer: Writer, *, use: bool = True) -> None:
        self._store = store
        self._writer = writer
        self._use = use
        self._known: dict[str, Entry] = {
            entry.cache: entry for entry in store.entries() if entry.cache
        }

    def find(self, key: str) -> State | None:
        """Return what is kept under a key, if it is whole."""
        entry = self._known.get(key)
        if not entry or not self._use:
            return None
        try:
            manifest = self._store.manifest(entry)
            config = self._store.document(
                model.descriptor(manifest["config"], "the cache"), "configuration"
            )
            self._store.image(entry)  # its layers are there
        except ImageError:
            return None
        layers = tuple(model.descriptor(value, "the cache") for value in manifest["layers"])
        created = config.get("created") if isinstance(config, dict) else None
        return State(layers, created if isinstance(created, str) else "")

    def keep(self, state: State, keys: Iterable[str]) -> None:
        """Keep a result under keys, also if the cache is not to be used this time."""
        if not state.layers:
            return
        manifest = {
            "schemaVersion": 2,
            "mediaType": model.MANIFEST_TYPE,
            "config": self._writer.add_json(
                {"created": state.created, "comment": COMMENT}, model.CONFIG_TYPE
            ).json(),
            "layers": [layer.json() for layer in state.layers],
        }
        blob = self._writer.add_json(manifest, model.MANIFEST_TYPE)
        for key in keys:
            self._writer.tag("", blob, annotations={model.CACHE: key})


def newest() -> int | None:
    """Return the latest time that files of a layer may have: SOURCE_DATE_EPOCH, if it is set."""
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    if text and not text.isdigit():
        raise UsageError(f"SOURCE_DATE_EPOCH is '{text}', not a number of seconds since 1970")
    return int(text) if text else None


def now() -> str:
    """Return the time that results are said to be from: SOURCE_DATE_EPOCH, else the clock's."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(newest()))
