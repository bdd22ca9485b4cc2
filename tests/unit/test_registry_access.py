"""Credentials, and the addresses that they are for."""

from __future__ import annotations

import base64
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apppot.errors import UsageError
from apppot.image.registry import credentials, names, transport
from apppot.image.registry.client import Repository
from apppot.image.registry.transport import Origin, RegistryError
from tests.registry_server import Handler, Registry, digest, serving
from tests.unit.pulling import blob_lie, get, registry
from tests.unit.stores import store

if TYPE_CHECKING:
    from apppot.image.store import Store


assert registry
assert store  # fixtures


def login(tmp_path: Path, host: str, user: str = "u", password: str = "p:w") -> str:
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    (tmp_path / "auth.json").write_text(json.dumps({"auths": {host: {"auth": auth}}}))
    return f"Basic {auth}"


def test_basic_authentication(registry: Registry, store: Store, tmp_path: Path) -> None:
    expected = login(tmp_path, registry.address)

    def lie(handler: Handler) -> bool:
        if handler.headers.get("Authorization") == expected:
            return False
        handler.answer(401, WWW_Authenticate='Basic realm="x"')
        return True

    registry.lie = lie
    get(registry)
    (tmp_path / "auth.json").unlink()
    with pytest.raises(RegistryError, match="denies access") as error:
        get(registry)
    assert "podman login" in error.value.hint


@pytest.mark.parametrize("known", [True, False])
def test_tokens(registry: Registry, store: Store, tmp_path: Path, known: bool) -> None:
    expected = login(tmp_path, registry.address) if known else None

    def lie(handler: Handler) -> bool:
        if handler.path.startswith("/token"):
            assert handler.headers.get("Authorization") == expected
            assert "scope=repository%3Aa%2Fb%3Apull" in handler.path
            handler.answer(200, b'{"token": "T"}')
        elif handler.headers.get("Authorization") != "Bearer T":
            realm = f"http://{registry.address}/token"
            handler.answer(401, WWW_Authenticate=f'Bearer realm="{realm}",service="s,x"')
        else:
            return False
        return True

    registry.lie = lie
    get(registry)


def test_credentials_stay_at_home(registry: Registry, store: Store, tmp_path: Path) -> None:
    login(tmp_path, registry.address)
    with serving() as other:
        registry.lie = blob_lie(
            lambda h, _: h.answer(307, Location=f"http://{other.address}{h.path}")
        )
        with pytest.raises(RegistryError, match="no other host is believed"):
            get(registry)
        assert other.log == []


def test_helpers_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "docker-credential-test"
    program.write_text('#!/bin/sh\nread h; echo "{\\"Username\\":\\"$h\\",\\"Secret\\":\\"s\\"}"\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
    (tmp_path / "auth.json").write_text('{"credHelpers": {"h.example": "test"}}')
    found = credentials.find("h.example", "a/b")
    assert (found.user, found.password) == ("h.example", "s")
    (tmp_path / "auth.json").write_text('{"credHelpers": {"h.example": "../../bin/sh"}}')
    with pytest.raises(UsageError, match="no helper's name"):
        credentials.find("h.example", "a/b")


@given(
    st.binary(max_size=200) | st.text(max_size=100).map(lambda t: json.dumps({"auths": t}).encode())
)
@settings(deadline=None)
def test_files_of_credentials_are_read_or_refused(data: bytes) -> None:
    path = f"/tmp/apppot-test-auth-{os.getpid()}.json"
    Path(path).write_bytes(data)
    os.environ["REGISTRY_AUTH_FILE"] = path
    try:
        credentials.find("h.example", "a/b")
    except UsageError:
        pass
    finally:
        del os.environ["REGISTRY_AUTH_FILE"]
        Path(path).unlink()


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("http://r.example/x", "not protected by TLS"),
        ("https://127.0.0.1/x", "address of this network"),
        ("https://[::1]/x", "address of this network"),
        ("https://169.254.169.254/latest", "address of this network"),
        ("https://10.1.2.3/x", "address of this network"),
        ("https://[::ffff:10.0.0.1]/x", "address of this network"),
        ("https://user:pass@cdn.example/x", "gives the address"),
        ("gopher://cdn.example/x", "gives the address"),
        ("https://cdn.example:99999/x", "gives the address"),
    ],
)
def test_redirects_that_are_refused(target: str, message: str) -> None:
    http = transport.Transport("r.example", plain_http=False)
    with pytest.raises(RegistryError, match=message):
        http._check_redirect("https://r.example/v2/", target, follow=True, elsewhere=True)


def test_redirects_that_are_followed() -> None:
    http = transport.Transport("r.example", plain_http=False)
    http._check_redirect(
        "https://r.example/a", "https://cdn.example/b", follow=True, elsewhere=True
    )
    http._check_redirect("https://r.example/a", "https://r.example/b", follow=True, elsewhere=False)
    with pytest.raises(RegistryError, match="for blobs only"):
        http._check_redirect(
            "https://r.example/a", "https://c.example/", follow=True, elsewhere=False
        )


def test_uploads_stay_at_home() -> None:
    place = names.parse("r.example:444/a/b:1")
    repository = Repository(place)
    with pytest.raises(RegistryError, match=r"wants blobs to be sent to evil\.example"):
        repository._upload_address("https://evil.example/x", digest(b""))
    found = repository._upload_address("http://r.example/up?a=b", digest(b""))
    assert re.fullmatch(r"https://r\.example:444/up\?a=b&digest=sha256%3A[0-9a-f]{64}", found)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("r.example/a/b:1", ("r.example", "a/b", "1")),
        ("localhost/a", ("localhost", "a", "latest")),
        ("r:5000/a", ("r:5000", "a", "latest")),
        ("debian:12", ("docker.io", "library/debian", "12")),
        ("user/tool", ("docker.io", "user/tool", "latest")),
    ],
)
def test_where_references_lead(text: str, expected: tuple[str, ...]) -> None:
    place = names.parse(text)
    assert (place.host, place.repository, place.tag) == expected


def test_origins() -> None:
    assert Origin.of("https://a.example") == Origin.of("https://a.example:443/x?y")
    assert Origin.of("https://a.example") != Origin.of("https://a.example:444")
