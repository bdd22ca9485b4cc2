"""A registry to pull from, and what tests of it share."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from apppot.errors import AppPotError
from apppot.image import erofs
from apppot.image.registry import transport
from apppot.image.registry.pull import pull
from tests.registry_server import Handler, Registry, archive, serving

if TYPE_CHECKING:
    from pathlib import Path

    from apppot.image.store import Store


try:
    erofs.mkfs_program()
except AppPotError as error:
    pytest.skip(f"needs mkfs.erofs: {error}", allow_module_level=True)


ONE, TWO = archive({"bin/sh": b"x" * 5000}), archive({"etc/motd": os.urandom(300_000)})


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
    monkeypatch.setattr(transport, "FIRST_WAIT", 0.01)
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving() as made:
        made.image("1", [ONE, TWO])
        yield made


def get(registry: Registry, tag: str = "1", **more: Any) -> Any:
    return pull(f"{registry.address}/a/b:{tag}", plain_http=True, **more)


def left(store: Store) -> list[str]:
    """Return what a failed pull has left that it should not have."""
    found = os.listdir(os.path.join(store.path, "blobs", "sha256"))
    return [name for name in found if name.startswith(".")]


def blob_lie(change: Any) -> Any:
    """Return a lie that changes the answers for big blobs."""

    def lie(handler: Handler) -> bool:
        data = handler.registry.blobs.get(handler.path.rpartition("/")[2], b"")
        if len(data) < 2000:
            return False
        change(handler, data)
        return True

    return lie
