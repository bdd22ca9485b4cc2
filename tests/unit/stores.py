"""A store of the test's own, and images to put into it."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from apppot.image import model
from apppot.image.store import Store

CONFIG: dict[str, Any] = {
    "architecture": "amd64",
    "created": "2026-01-01T00:00:00Z",
    "config": {"Env": ["A=b"], "Cmd": ["/bin/sh"], "User": "1000", "WorkingDir": "/w"},
}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    path = tmp_path / "own"
    monkeypatch.setenv("APPPOT_STORE", str(path))
    return Store(str(path))


def add(
    store: Store, name: str, *contents: bytes, config: dict[str, Any] | None = None, **more: Any
) -> str:
    """Add an image whose layers have these contents; return its digest."""
    with store.writer() as adding:
        layers = [adding.add(data, model.LAYER_TYPE) for data in contents]
        return adding.image(name, layers, CONFIG if config is None else config, **more)


def blobs(store: Store) -> set[str]:
    return set(os.listdir(os.path.join(store.path, "blobs", "sha256")))


def rewrite(store: Store, digest: str, change: Any) -> None:
    path = Path(store.blob_path(digest))
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(change(data))
