"""Registries with TLS: whose certificates are believed, and what other hosts get to see."""

from __future__ import annotations

import base64
import json
import shutil
import ssl
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest
from urllib3.util.ssl_ import create_urllib3_context

from apppot.errors import AppPotError, UsageError
from apppot.image import erofs
from apppot.image.registry import authorities, transport
from apppot.image.registry.pull import pull
from apppot.image.registry.transport import RegistryError
from tests.certificates import Authority
from tests.registry_server import Handler, Registry, archive, serving
from tests.unit.stores import store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from apppot.image.store import Store

assert store  # a fixture
try:
    erofs.mkfs_program()
except AppPotError as error:
    pytest.skip(f"needs mkfs.erofs: {error}", allow_module_level=True)

LAYER = archive({"bin/sh": b"x" * 9000})


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing of this host count."""
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("REGISTRY_AUTH_FILE", str(tmp_path / "auth.json"))
    monkeypatch.setattr(authorities, "FOLDERS", (str(tmp_path / "etc/certs.d"),))


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def registry(authority: Authority) -> Iterator[Registry]:
    with serving(authority.server()) as made:
        made.image("1", [LAYER])
        yield made


def get(registry: Registry, host: str = "127.0.0.1") -> Any:
    return pull(f"{host}:{registry.address.partition(':')[2]}/a/b:1")


def known(
    tmp_path: Path, registry: Registry, *files: Path, where: str = "config/containers"
) -> None:
    folder = tmp_path / where / "certs.d" / registry.address
    folder.mkdir(parents=True)
    for file in files:
        shutil.copy(file, folder)


@pytest.mark.parametrize("where", ["config/containers", "etc"])
def test_an_authority_in_the_folder_of_certificates(
    where: str, registry: Registry, authority: Authority, store: Store, tmp_path: Path
) -> None:
    known(tmp_path, registry, authority.path, where=where)
    get(registry)
    with pytest.raises(RegistryError, match="CERTIFICATE_VERIFY_FAILED"):
        get(registry, "localhost")  # is another folder


def test_an_authority_that_the_environment_names(
    registry: Registry, authority: Authority, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.path))
    get(registry)


@pytest.mark.parametrize("named", ["folder", "environment"])
def test_authorities_without_identifiers_as_podman_takes_them(
    named: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = Authority(tmp_path, identifiers=False)
    strict = partial(create_urllib3_context, verify_flags=ssl.VERIFY_X509_STRICT)
    monkeypatch.setattr(authorities, "create_urllib3_context", strict)  # as Python 3.13 has it
    with serving(old.server()) as made:
        made.image("1", [LAYER])
        with pytest.raises(RegistryError, match="VERIFY_FAILED"):
            get(made)
        if named == "folder":
            known(tmp_path, made, old.path)
        else:
            monkeypatch.setenv("SSL_CERT_FILE", str(old.path))
        get(made)


@pytest.mark.parametrize(
    ("hosts", "days", "reason"),
    [
        (("other.example",), 1, "certificate is not valid for '127.0.0.1'"),
        (("127.0.0.1",), -1, "certificate has expired"),
    ],
)
def test_such_authorities_wrong_certificates_are_refused(
    hosts: tuple[str, ...], days: int, reason: str, store: Store, tmp_path: Path
) -> None:
    old = Authority(tmp_path, identifiers=False)
    with serving(old.server(hosts, days)) as made:
        made.image("1", [LAYER])
        known(tmp_path, made, old.path)
        with pytest.raises(RegistryError, match=reason):
            get(made)


def test_unknown_authorities_are_refused_once_and_clearly(
    registry: Registry, store: Store, tmp_path: Path
) -> None:
    with pytest.raises(RegistryError, match=r"cannot reach 127\.0\.0\.1:\d+: .*VERIFY_FAILED") as e:
        get(registry)
    assert f"{tmp_path}/config/containers/certs.d/{registry.address}" in e.value.hint
    assert "SSL_CERT_FILE" in e.value.hint
    known(tmp_path, registry, Authority(tmp_path, "other").path)
    with pytest.raises(RegistryError, match="VERIFY_FAILED"):
        get(registry)
    assert registry.log == []  # no request went there, and so no credentials


@pytest.mark.parametrize(
    ("hosts", "days", "reason"),
    [
        (("other.example",), 1, "certificate is not valid for '127.0.0.1'"),
        (("127.0.0.1",), -1, "certificate has expired"),
    ],
)
def test_wrong_certificates_are_refused(
    hosts: tuple[str, ...], days: int, reason: str, authority: Authority, store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.path))
    with serving(authority.server(hosts, days)) as made:
        made.image("1", [LAYER])
        with pytest.raises(RegistryError, match=reason):
            get(made)
        assert made.log == []


def test_without_tls_the_option_is_told(store: Store) -> None:
    with serving() as plain, pytest.raises(RegistryError, match="cannot reach") as error:
        get(plain)
    assert "--plain-http" in error.value.hint


def test_a_certificate_of_the_users_is_shown(
    authority: Authority, store: Store, tmp_path: Path
) -> None:
    context = authority.server()
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(authority.path)
    with serving(context) as made:
        made.image("1", [LAYER])
        known(tmp_path, made, authority.path)
        with pytest.raises(RegistryError):
            get(made)
        folder = tmp_path / "config/containers/certs.d" / made.address
        certificate, key = authority.certify("client")
        shutil.copy(certificate, folder)
        with pytest.raises(UsageError, match=r"client\.cert cannot be used") as error:
            get(made)
        assert "NAME.key" in error.value.hint
        shutil.copy(key, folder)
        get(made)
        (folder / "bad.crt").write_text("no certificate")
        with pytest.raises(UsageError, match=r"bad\.crt cannot be used"):
            get(made)


def test_other_hosts_get_blobs_requests_without_credentials(
    registry: Registry, authority: Authority, store: Store, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.path))
    secret = "Basic " + base64.b64encode(b"user:secret").decode()
    entry = {"auth": secret.removeprefix("Basic ")}
    host = "localhost:" + registry.address.partition(":")[2]
    (tmp_path / "auth.json").write_text(json.dumps({"auths": {host: entry}}))
    with serving(authority.server()) as other:
        other.blobs = registry.blobs

        def lie(handler: Handler) -> bool:
            if handler.headers.get("Authorization") != secret:
                handler.answer(401, WWW_Authenticate='Basic realm="x"')
                return True
            if "/blobs/" in handler.path:
                handler.answer(307, Location=f"https://{target}{handler.path}?signed=1")
                return True
            return False

        registry.lie = lie

        def cut(handler: Handler) -> bool:
            handler.path = handler.path.partition("?")[0]
            return False

        other.lie = cut
        # The same host at another port; a host of this network; one that is taken for a public one.
        target = other.address.replace("127.0.0.1", "localhost")
        get(registry, "localhost")
        target = other.address
        with pytest.raises(RegistryError, match="address of this network"):
            get(registry, "localhost")
        monkeypatch.setattr(transport, "check_address", lambda *_: None)
        get(registry, "localhost")
        assert len(other.log) >= 3
        for _, path, headers in other.log:
            assert "signed=1" in path
            assert "authorization" not in {name.lower() for name in headers}
        assert secret in {headers.get("Authorization") for _, _, headers in registry.log}


def test_manifests_come_from_the_registry_alone(
    registry: Registry, authority: Authority, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.path))
    monkeypatch.setattr(transport, "check_address", lambda *_: None)
    with serving(authority.server()) as other:

        def lie(handler: Handler) -> bool:
            target = other.address.replace("127.0.0.1", "localhost")
            handler.answer(307, Location=f"https://{target}{handler.path}")
            return True

        registry.lie = lie
        with pytest.raises(RegistryError, match="followed for blobs only"):
            get(registry)
        assert other.log == []
