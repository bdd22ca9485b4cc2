"""A registry on loopback for tests: a good one, and, told to lie, any bad one."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"


def digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def archive(files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


class Registry:
    """What a registry has. `lie` may answer a request by itself: it returns True if it has."""

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[str, tuple[bytes, str]] = {}
        self.lie: Callable[[Handler], bool] = lambda _: False
        self.log: list[tuple[str, str, dict[str, str]]] = []
        self.address = ""

    def blob(self, data: bytes, media_type: str) -> dict[str, Any]:
        self.blobs[digest(data)] = data
        return {"mediaType": media_type, "digest": digest(data), "size": len(data)}

    def put(self, tag: str, document: dict[str, Any], media_type: str = MANIFEST) -> str:
        data = json.dumps(document).encode()
        self.manifests[tag] = self.manifests[digest(data)] = data, media_type
        return digest(data)

    def image(
        self,
        tag: str,
        layers: list[bytes],
        *,
        pack: Callable[[bytes], bytes] = gzip.compress,
        architecture: str = "amd64",
        **changes: Any,
    ) -> str:
        config = {
            "architecture": architecture,
            "os": "linux",
            "config": {"Cmd": ["/bin/sh"]},
            "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
        }
        document = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.blob(json.dumps(config).encode(), CONFIG),
            "layers": [self.blob(pack(layer), LAYER) for layer in layers],
        }
        return self.put(tag, {**document, **changes})


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    registry: Registry

    def log_message(self, *_: object) -> None:
        pass

    def answer(self, status: int, data: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def handle_one(self) -> None:
        registry = self.registry
        registry.log.append((self.command, self.path, dict(self.headers)))
        if registry.lie(self):
            return
        what, _, name = self.path.rpartition("/")
        if what.endswith("/manifests") and name in registry.manifests:
            data, kind = registry.manifests[name]
            self.answer(200, data, Content_Type=kind, Docker_Content_Digest=digest(data))
        elif what.endswith("/blobs") and name in registry.blobs:
            data = registry.blobs[name]
            begin = int(self.headers.get("Range", "bytes=0-")[6:-1])
            more = {"Content_Range": f"bytes {begin}-{len(data) - 1}/{len(data)}"} if begin else {}
            self.answer(206 if begin else 200, data[begin:], **more)
        elif self.command == "POST" and "/blobs/uploads/" in self.path:
            self.answer(202, Location=f"/v2/up/{len(registry.log)}?state=1")
        elif self.command == "PUT":
            self.put(what, name)
        else:
            self.answer(404, b'{"errors":[{"code":"UNKNOWN","message":"not here"}]}')

    def put(self, what: str, name: str) -> None:
        data = self.rfile.read(int(self.headers["Content-Length"]))
        told = parse_qs(urlsplit(self.path).query).get("digest", [digest(data)])[0]
        if told != digest(data):
            self.answer(400)
            return
        if what.endswith("/manifests"):
            self.registry.manifests[name] = data, self.headers["Content-Type"]
        else:
            self.registry.blobs[told] = data
        self.answer(201)

    do_GET = do_HEAD = do_POST = do_PUT = handle_one  # noqa: N815


@contextmanager
def serving(tls: ssl.SSLContext | None = None) -> Iterator[Registry]:
    registry = Registry()
    kind = type("Own", (Handler,), {"registry": registry})
    server = ThreadingHTTPServer(("127.0.0.1", 0), kind)
    server.daemon_threads = True
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    registry.address = f"127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()
