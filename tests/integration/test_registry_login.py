"""A registry with TLS and passwords: the files that docker's and podman's logins leave behind."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from apppot import kit
from tests.certificates import Authority
from tests.integration.registries import PROGRAM, publish, serving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NEEDED = (PROGRAM, "skopeo")
MISSING = [name for name in NEEDED if not shutil.which(name)]
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {' '.join(MISSING)}"),
    pytest.mark.timeout(300),
]
HELPER = """#!/bin/sh
[ "$1" = get ] && [ "$(cat)" = {host} ] || {{ echo credentials not found; exit 1; }}
echo '{{"ServerURL": "{host}", "Username": "user", "Secret": "{password}"}}'
"""


class Site:
    """A registry that wants passwords, with an image, and a home of a user."""

    def __init__(self, host: str, home: Path) -> None:
        self.host, self.home = host, home
        self.image = f"{host}/test/tool:1"
        self.env = {
            "PATH": f"{home}/bin:{os.environ['PATH']}",
            "HOME": str(home),
            "APPPOT_STORE": str(home / "store"),
            "APPPOT_KIT": kit.locate(),  # HOME, where it may be, is another one
            **{key: os.environ[key] for key in ("PYTHONPATH",) if key in os.environ},
        }

    def write(self, path: str, text: str, mode: int = 0o600) -> None:
        file = self.home / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def call(self, *words: str) -> tuple[int, str]:
        argv = [sys.executable, "-m", "apppot", *words]
        done = subprocess.run(argv, env=self.env, capture_output=True, text=True, check=False)
        assert "Traceback" not in done.stderr
        return done.returncode, done.stderr

    def pull(self) -> tuple[int, str]:
        return self.call("pull", self.image)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    authority = Authority(tmp_path)
    certificate, key = authority.certify("server")
    home = tmp_path / "home"
    home.mkdir()
    layout = tmp_path / "layout"
    with serving(str(tmp_path / "open")) as source:
        publish(source, "test/tool", [_layer()])
        image = f"docker://{source}/test/tool:1"
        _run("skopeo", "copy", "-q", "--src-tls-verify=false", image, f"oci:{layout}:1")
    with serving(str(tmp_path / "closed"), (str(certificate), str(key))) as host:
        made = Site(host, home)
        words = ("--dest-tls-verify=false", "--dest-creds", "user:secret")
        _run("skopeo", "copy", "-q", *words, f"oci:{layout}:1", f"docker://{made.image}")
        made.write(f".config/containers/certs.d/{host}/ca.crt", authority.path.read_text())
        yield made


def _layer() -> bytes:
    from tests.registry_server import archive

    return archive({"etc/motd": b"hello\n"})


def _run(*words: str) -> None:
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{words}: {done.stderr}"


def auth(password: str = "secret") -> dict[str, str]:
    return {"auth": base64.b64encode(f"user:{password}".encode()).decode()}


WAYS = ("docker's file", "podman's file", "podman's at run time", "named file", "helper", "store")


def log_in(site: Site, way: str, password: str = "secret") -> str:
    """Leave what a login leaves; return the name by which an error tells of it."""
    listed = json.dumps({"auths": {site.host: auth(password)}})
    if way == "docker's file":
        site.write(".docker/config.json", listed)
        return ".docker/config.json"
    if way == "podman's file":
        site.write(".config/containers/auth.json", listed)
        return ".config/containers/auth.json"
    if way == "podman's at run time":
        site.env["XDG_RUNTIME_DIR"] = str(site.home / "run")
        site.write("run/containers/auth.json", listed)
        return "run/containers/auth.json"
    if way == "named file":
        site.env["REGISTRY_AUTH_FILE"] = str(site.home / "named.json")
        site.write("named.json", listed)
        return "named.json"
    site.write(
        "bin/docker-credential-test", HELPER.format(host=site.host, password=password), 0o755
    )
    how = {"credHelpers": {site.host: "test"}} if way == "helper" else {"credsStore": "test"}
    site.write(".docker/config.json", json.dumps(how))
    return "docker-credential-test"


@pytest.mark.parametrize("way", WAYS)
def test_logins(way: str, site: Site) -> None:
    status, said = site.pull()
    assert (status, "denies access" in said) == (1, True), said
    assert f"podman login {site.host}" in said
    where = log_in(site, way, "wrong")
    status, said = site.pull()
    assert (status, "denies access" in said) == (1, True), said
    assert where in said
    assert "wrong" not in said
    log_in(site, way)
    status, said = site.pull()
    assert status == 0, said
    status, said = site.call("push", site.image, f"{site.host}/test/again:1")
    assert status == 0, said


def test_what_skopeos_login_leaves(site: Site, tmp_path: Path) -> None:
    file = str(tmp_path / "auth.json")
    words = ("--tls-verify=false", "-u", "user", "-p", "secret", "--authfile", file, site.host)
    _run("skopeo", "login", *words)
    site.env["REGISTRY_AUTH_FILE"] = file
    status, said = site.pull()
    assert status == 0, said


def test_the_certificate_comes_before_the_password(site: Site) -> None:
    log_in(site, "docker's file")
    shutil.rmtree(site.home / ".config")
    status, said = site.pull()
    assert status == 1
    assert "VERIFY_FAILED" in said
    assert f"{site.home}/.config/containers/certs.d/{site.host}" in said
