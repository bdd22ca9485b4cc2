"""Sending to registries that break off, are busy, or refuse."""

from __future__ import annotations

import io
import os
import socket
import struct
from typing import TYPE_CHECKING, Any

import pytest

from apppot.image.registry import client, names, transport
from apppot.image.registry.client import Repository
from apppot.image.registry.transport import RegistryError
from tests.registry_server import MANIFEST, Handler, Registry, digest, serving

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

BLOB = os.urandom(3 << 20)


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Registry]:
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
    monkeypatch.setattr(transport, "FIRST_WAIT", 0.01)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with serving() as made:
        yield made


def repository(registry: Registry) -> Repository:
    return Repository(names.parse(f"{registry.address}/a/b:1"), plain_http=True)


def upload(registry: Registry) -> None:
    repository(registry).upload(digest(BLOB), len(BLOB), io.BytesIO(BLOB))


def reset(handler: Handler) -> None:
    """Read a part, and break the connection off."""
    handler.rfile.read(min(100_000, int(handler.headers["Content-Length"])))
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    handler.close_connection = True


def silent(handler: Handler) -> None:
    """Read all, and answer nothing."""
    handler.rfile.read(int(handler.headers["Content-Length"]))
    handler.connection.shutdown(socket.SHUT_RDWR)
    handler.close_connection = True


def busy(handler: Handler) -> None:
    handler.rfile.read(int(handler.headers["Content-Length"]))
    handler.answer(503)


def failing(act: Callable[[Handler], Any], times: int, method: str) -> Callable[[Handler], bool]:
    """Return a lie that does this to the first requests of a method."""
    left = [times]

    def lie(handler: Handler) -> bool:
        if handler.command != method or not left[0]:
            return False
        left[0] -= 1
        act(handler)
        return True

    return lie


@pytest.mark.parametrize("act", [reset, silent, busy])
@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_what_breaks_off_is_sent_again(
    act: Callable[[Handler], None], method: str, registry: Registry
) -> None:
    registry.lie = failing(act, client.UPLOADS - 1, method)
    upload(registry)
    assert registry.blobs[digest(BLOB)] == BLOB
    sent = [path for command, path, _ in registry.log if command == "PUT"]
    assert len(set(sent)) == len(sent)  # each time to a new place


@pytest.mark.parametrize(
    ("act", "message"), [(reset, "does not take"), (silent, "does not take"), (busy, "answers 503")]
)
def test_what_always_breaks_off_is_told(
    act: Callable[[Handler], None], message: str, registry: Registry
) -> None:
    registry.lie = failing(act, 99, "PUT")
    with pytest.raises(RegistryError, match=message) as error:
        upload(registry)
    if act is not busy:
        assert f"tried {client.UPLOADS} times" in error.value.message
        assert "push again" in error.value.hint
    assert digest(BLOB) not in registry.blobs
    assert [command for command, *_ in registry.log].count("PUT") == client.UPLOADS


def test_refusals_are_told_at_once(registry: Registry) -> None:
    said = b'{"errors":[{"code":"DENIED","message":"quota of the project"}]}'

    def refuse(handler: Handler) -> None:
        handler.rfile.read(int(handler.headers["Content-Length"]))
        handler.answer(413, said)

    registry.lie = failing(refuse, 99, "PUT")
    with pytest.raises(RegistryError, match=r"413 .*quota of the project"):
        upload(registry)
    assert [command for command, *_ in registry.log].count("PUT") == 1


def test_manifests_are_sent_again(registry: Registry) -> None:
    registry.lie = failing(silent, 2, "PUT")
    sent = repository(registry).put_manifest(b"{}", MANIFEST, "1")
    assert registry.manifests["1"] == (b"{}", MANIFEST)
    assert sent == digest(b"{}")
