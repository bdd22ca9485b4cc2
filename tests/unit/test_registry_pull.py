"""Pulling from good registries, and from ones that lie."""

from __future__ import annotations

import errno
import gzip
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from apppot.errors import ImageError
from apppot.image import compressed, listing
from apppot.image import store as stores_
from apppot.image.registry import manifests
from apppot.image.registry.pull import pull
from apppot.image.registry.transport import RegistryError
from tests.registry_server import INDEX, MANIFEST, Handler, Registry, archive, digest
from tests.unit.pulling import ONE, TWO, blob_lie, get, left, registry
from tests.unit.stores import store

if TYPE_CHECKING:
    from apppot.image.store import Store


assert registry
assert store  # fixtures


def test_without_locks_nothing_is_left(
    registry: Registry, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("fcntl.flock", refused)
    get(registry)
    assert left(store) == os.listdir(os.path.join(store.path, "partial")) == []


def test_an_image_is_pulled_whole(registry: Registry, store: Store) -> None:
    pulled = get(registry)
    image = stores_.resolve(f"{registry.address}/a/b:1")
    assert image.digest == pulled.digest
    assert len(image.layers) == 2
    assert all(layer.content for layer in image.layers)
    assert image.config.cmd == ("/bin/sh",)
    assert left(store) == os.listdir(os.path.join(store.path, "partial")) == []
    before = len(registry.log)
    again = get(registry)
    assert (again.digest, again.fetched) == (pulled.digest, 0)
    asked = [path for _, path, _ in registry.log[before:] if "/blobs/" in path]
    assert len(asked) == 1  # the configuration


@pytest.mark.parametrize("pack", [gzip.compress, lambda d: compressed.zstd().compress(d), bytes])
def test_layers_of_every_form(registry: Registry, store: Store, pack: Any) -> None:
    registry.image("2", [TWO], pack=pack)
    assert get(registry, "2").fetched == len(pack(TWO))


def test_the_registrys_digests_name_what_was_pulled(registry: Registry, store: Store) -> None:
    one = registry.image("one", [ONE])
    row = {"mediaType": MANIFEST, "digest": one, "size": len(registry.manifests[one][0])}
    row["platform"] = {"os": "linux", "architecture": "amd64"}
    both = registry.put("both", {"schemaVersion": 2, "manifests": [row]}, INDEX)
    name = f"{registry.address}/a/b"
    pulled = pull(f"{name}@{both}", plain_http=True)
    assert pulled.digest not in (one, both)
    get(registry, "both")
    listing.tag(f"{name}:both", "mine:1")
    texts = [f"{name}@{one}", f"{name}:both@{both}", f"mine@{both}", both, one[7:19]]
    assert {stores_.resolve(text).layers for text in texts} == {
        stores_.resolve(f"{name}:both").layers
    }
    assert stores_.resolve(f"{name}@{both}").digest == pulled.digest


def test_the_platform_is_chosen(registry: Registry, store: Store) -> None:
    rows = []
    for architecture in ("arm64", "amd64"):
        found = registry.image(
            architecture, [archive({architecture: b"x"})], architecture=architecture
        )
        size = len(registry.manifests[found][0])
        kind = {"os": "linux", "architecture": architecture}
        rows.append({"mediaType": MANIFEST, "digest": found, "size": size, "platform": kind})
    whole = registry.put("all", {"schemaVersion": 2, "mediaType": INDEX, "manifests": rows}, INDEX)
    arm = get(registry, "all", platform="linux/arm64", name="arm:1")
    assert stores_.resolve("arm:1").config.architecture == "arm64"
    assert arm.origin_digest == rows[0]["digest"]
    with pytest.raises(ImageError, match="has no image for linux/riscv64") as error:
        get(registry, "all", platform="riscv64")
    assert "linux/arm64" in error.value.hint
    by_digest = pull(f"{registry.address}/a/b@{whole}", plain_http=True, platform="arm64")
    assert by_digest.name.endswith(f":sha256-{whole[7:19]}")
    with pytest.raises(ImageError, match="is for the architecture 'arm64'"):
        pull(f"{registry.address}/a/b:arm64", plain_http=True, platform="")


def endless(handler: Handler, data: bytes) -> None:
    handler.send_response(200)
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()
    try:
        while True:
            handler.wfile.write(b"10000\r\n" + bytes(1 << 16) + b"\r\n")
    except OSError:
        pass


def truncated(handler: Handler, _: bytes) -> None:
    handler.answer(200, b"")


LIES = {
    "wrong bytes": (lambda h, d: h.answer(200, d[:-9] + b"123456789"), "damaged|digest"),
    "other layer": (lambda h, _: h.answer(200, gzip.compress(ONE) * 9000), "more than|digest"),
    "truncated": (truncated, "does not send all"),
    "endless": (endless, "more than the|damaged"),
    "server error": (lambda h, _: h.answer(500), "answers 500"),
    "elsewhere": (
        lambda h, _: h.answer(302, Location="http://127.0.0.1:1/x"),
        "without TLS no other host",
    ),
    "round": (lambda h, _: h.answer(302, Location=h.path), "again and again"),
    "files": (lambda h, _: h.answer(302, Location="file:///etc/passwd"), "gives the address"),
    "other part": (lambda h, d: h.answer(206, d, Content_Range="bytes 7-9/10"), "another part"),
}


@pytest.mark.parametrize("lie", LIES)
def test_lies_about_layers(registry: Registry, store: Store, lie: str) -> None:
    change, message = LIES[lie]
    registry.lie = blob_lie(change)
    with pytest.raises(ImageError, match=message):
        get(registry)
    assert left(store) == []
    assert store.entries() == ()
    registry.lie = lambda _: False
    get(registry)  # what was kept of the lies does no harm


HOSTILE: dict[str, Any] = {
    "list": [],
    "no layers": {"layers": []},
    "layers": {"layers": {"a": 1}},
    "many": {"layers": [{"digest": digest(b""), "size": 1, "mediaType": "x"}] * 600},
    "path": {"layers": [{"digest": "sha256:../../../etc/passwd", "size": 1, "mediaType": "x"}]},
    "size": {"layers": [{"digest": digest(b""), "size": -1, "mediaType": "x"}]},
    "float": {"layers": [{"digest": digest(b""), "size": 1e300, "mediaType": "x"}]},
    "artifact": {"config": {"digest": digest(b""), "size": 1, "mediaType": "application/helm"}},
    "null": {"config": None},
    "first form": {"schemaVersion": 1},
}


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_manifests(registry: Registry, store: Store, what: str) -> None:
    document = json.loads(registry.manifests["1"][0])
    change = HOSTILE[what]
    registry.put("bad", {**document, **change} if isinstance(change, dict) else change)
    with pytest.raises(ImageError):
        get(registry, "bad")
    assert store.entries() == ()


@pytest.mark.parametrize("data", [b"[" * 200_000, b"x" * (5 << 20), b"\xff", b"null", b'{"a":1'])
def test_manifests_that_are_no_json(registry: Registry, store: Store, data: bytes) -> None:
    registry.manifests["bad"] = data, MANIFEST
    with pytest.raises(ImageError):
        get(registry, "bad")


def test_a_digest_is_checked(registry: Registry, store: Store) -> None:
    wrong = digest(b"other")
    registry.manifests[wrong] = registry.manifests["1"]

    def lie(handler: Handler) -> bool:
        handler.answer(200, registry.manifests["1"][0])
        return True

    registry.lie = lie
    with pytest.raises(RegistryError, match="should have the digest"):
        pull(f"{registry.address}/a/b@{wrong}", plain_http=True)


def test_pulls_go_on_where_they_ended(registry: Registry, store: Store) -> None:
    def half(handler: Handler, data: bytes) -> None:
        begin = int(handler.headers.get("Range", "bytes=0-")[6:-1])
        end = max(begin, len(data) // 2)
        handler.send_response(206 if begin else 200)
        handler.send_header("Content-Range", f"bytes {begin}-{len(data) - 1}/{len(data)}")
        handler.send_header("Content-Length", str(len(data) - begin))
        handler.end_headers()
        handler.wfile.write(data[begin:end])
        handler.close_connection = True

    registry.lie = blob_lie(half)
    with pytest.raises(RegistryError, match="does not send all"):
        get(registry)
    registry.lie = lambda _: False
    before = len(registry.log)
    get(registry)
    ranges = [h["Range"] for _, _, h in registry.log[before:] if "Range" in h]
    assert len(ranges) == 1
    assert int(ranges[0][6:-1]) > 100_000


BOMB = """
import gzip, io, resource, sys, zlib
from apppot.image import compressed
from apppot.errors import ImageError
resource.setrlimit(resource.RLIMIT_AS, (400 << 20, 400 << 20))
machine = zlib.compressobj(9, zlib.DEFLATED, 31)
data = b"".join(machine.compress(bytes(1 << 20)) for _ in range(1200)) + machine.flush()
if sys.argv[1] == "zstd":
    data = compressed.zstd().compress(bytes(60 << 20)) * 20
room = compressed.Room("/tmp", len(data))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    for piece in compressed.plain([data]):
        room.take(len(piece))
except ImageError as error:
    print("REFUSED", error.message)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.parametrize("form", ["gzip", "zstd"])
def test_bombs_are_stopped_in_little_memory(form: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", BOMB, form], capture_output=True, text=True, check=False, timeout=100
    )
    assert "REFUSED compressed data becomes more than" in done.stdout, done.stderr
    assert int(done.stdout.split()[-1]) < 64 << 10  # KiB


def test_names_lead_out_of_no_layer(registry: Registry, store: Store) -> None:
    registry.image("evil", [archive({"../../etc/cron.d/x": b"y"})])
    with pytest.raises(ImageError, match="leads out of it"):
        get(registry, "evil")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(
        st.sampled_from(
            ["schemaVersion", "config", "layers", "digest", "size", "mediaType", "manifests",
             "platform", "os", "rootfs", "diff_ids", "annotations"]
        ),
        inner,
        max_size=5,
    ),
    max_leaves=12,
)  # fmt: skip


@given(JSON)
@settings(deadline=None, max_examples=300)
def test_manifests_are_read_or_refused(value: Any) -> None:
    try:
        found = manifests.document(json.dumps(value).encode(), "it")
        if manifests.is_index(found):
            manifests.choose(found, manifests.platform(""), "it")
        manifests.manifest(found, "it")
        manifests.diff_ids(json.dumps(value).encode(), 1, "it")
    except ImageError:
        pass


@given(st.binary(max_size=400), st.sampled_from(["gzip", "zstd", "xz"]), st.integers(0, 300))
@example(b"BZh", "gzip", 0)
@settings(deadline=None, max_examples=200)
def test_damaged_streams_are_read_or_refused(data: bytes, form: str, cut: int) -> None:
    import lzma

    pack = {"gzip": gzip.compress, "zstd": compressed.zstd().compress, "xz": lzma.compress}[form]
    packed = pack(data * 5)
    assert b"".join(compressed.plain([packed[:cut], packed[cut:]])) == data * 5
    for damaged in (packed[:cut] + data, data + packed, packed + data):
        try:
            for _ in compressed.plain([damaged]):
                pass
        except ImageError:
            pass
