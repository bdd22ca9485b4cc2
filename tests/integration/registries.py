"""Debian's docker-registry on loopback, and what a test wants to know of it."""

from __future__ import annotations

import gzip
import hashlib
import http.client
import json
import socket
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PROGRAM = "docker-registry"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


# The user's name is `user`, the password `secret`.
PASSWORDS = "user:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n"  # bcrypt


@contextmanager
def serving(folder: str, tls: tuple[str, str] | None = None) -> Iterator[str]:
    """Start a registry that keeps its blobs in `folder`; give its host and port.

    With `tls`, files of a certificate and its key, it wants a name and a password.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    config = folder + ".yml"
    with open(config, "w", encoding="utf-8") as file:
        file.write(
            "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
            f"storage: {{filesystem: {{rootdirectory: {folder}}}}}\n"
            f"http: {{addr: {address}{_tls(tls)}}}\n"
        )
        if tls:
            with open(folder + ".users", "w", encoding="utf-8") as users:
                users.write(PASSWORDS)
            file.write(f"auth: {{htpasswd: {{realm: r, path: {folder}.users}}}}\n")
    words = [PROGRAM, "serve", config]
    null = subprocess.DEVNULL
    with subprocess.Popen(words, stdout=null, stderr=null) as server:
        try:
            _wait_for(address)
            yield address
        finally:
            server.terminate()


def _tls(files: tuple[str, str] | None) -> str:
    return f", tls: {{certificate: {files[0]}, key: {files[1]}}}" if files else ""


def _wait_for(address: str) -> None:
    host, _, port = address.partition(":")
    for _ in range(300):
        with socket.socket() as probe:
            if probe.connect_ex((host, int(port))) == 0:
                return
        time.sleep(0.1)
    raise AssertionError(f"{address} does not answer")


def _ask(
    address: str, method: str, path: str, data: bytes = b"", kind: str = ""
) -> tuple[int, bytes, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection(address, timeout=30)
    try:
        headers = {"Accept": MANIFEST, **({"Content-Type": kind} if kind else {})}
        connection.request(method, path, body=data or None, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read(), answer.headers
    finally:
        connection.close()


def publish(address: str, name: str, layers: Sequence[bytes]) -> None:
    """Put an image of these archives into a registry, under NAME:1."""
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Cmd": ["/bin/sh"]},
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer) for layer in layers]},
    }
    document = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": _blob(address, name, json.dumps(config).encode(), CONFIG),
        "layers": [_blob(address, name, gzip.compress(each, 1, mtime=0), LAYER) for each in layers],
    }
    data = json.dumps(document).encode()
    status, said, _ = _ask(address, "PUT", f"/v2/{name}/manifests/1", data, MANIFEST)
    assert status == 201, said


def _blob(address: str, name: str, data: bytes, kind: str) -> dict[str, Any]:
    found = {"mediaType": kind, "digest": _digest(data), "size": len(data)}
    if _ask(address, "HEAD", f"/v2/{name}/blobs/{found['digest']}")[0] != 200:
        status, said, headers = _ask(address, "POST", f"/v2/{name}/blobs/uploads/")
        assert status == 202, said
        place = headers["Location"].partition(address)[2]
        place += ("&" if "?" in place else "?") + f"digest={found['digest']}"
        status, said, _ = _ask(address, "PUT", place, data, "application/octet-stream")
        assert status == 201, said
    return found


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def whole(address: str, name: str) -> bool:
    """Tell whether NAME:1 is there; then all that it is made of must be."""
    status, data, _ = _ask(address, "GET", f"/v2/{name}/manifests/1")
    if status == 404:
        return False
    assert status == 200, data
    document = json.loads(data)
    for value in (document["config"], *document["layers"]):
        status, _, headers = _ask(address, "HEAD", f"/v2/{name}/blobs/{value['digest']}")
        assert (status, int(headers["Content-Length"])) == (200, value["size"]), name
    return True
