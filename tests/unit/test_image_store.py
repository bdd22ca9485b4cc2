"""Stores: what is written is read back, named and removed."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from apppot import config
from apppot.__main__ import main
from apppot.errors import ImageError
from apppot.image import listing, model
from apppot.image.store import Store, find, resolve
from tests.unit.stores import CONFIG, add, blobs, store

__all__ = ["store"]  # a fixture


def test_round_trip(store: Store) -> None:
    digest = add(store, "debian:bookworm", b"low", b"high")
    image = resolve("debian:bookworm")
    assert (image.name, image.digest) == ("debian:bookworm", digest)
    assert [Path(layer.path).read_bytes() for layer in image.layers] == [b"low", b"high"]
    assert [layer.size for layer in image.layers] == [3, 4]
    assert image.config == model.ImageConfig(
        env=("A=b",),
        cmd=("/bin/sh",),
        working_dir="/w",
        user="1000",
        architecture="amd64",
        created="2026-01-01T00:00:00Z",
    )
    assert json.loads(Path(store.path, "oci-layout").read_text()) == {"imageLayoutVersion": "1.0.0"}
    assert not [name for name in blobs(store) if name.startswith(".")]


def test_ways_to_name_an_image(store: Store) -> None:
    digest = add(store, "a/b:latest", b"x")
    for text in ("a/b", "a/b:latest", digest, digest[:15], digest[7:15], f"a/b@{digest}"):
        assert resolve(text).digest == digest
    with pytest.raises(ImageError, match="there is no image"):
        resolve(f"other@{digest}")
    with pytest.raises(ImageError, match="there is no image"):
        resolve("a/b@sha256:" + "0" * 64)


def test_a_name_beats_a_digest_and_an_ambiguous_beginning_is_refused(store: Store) -> None:
    first = add(store, "one:latest", b"1")
    add(store, f"{first[7:15]}:latest", b"2")
    assert resolve(first[7:15]).digest != first
    assert resolve(f"sha256:{first[7:15]}").digest == first
    index = Path(store.path, "index.json")
    document = json.loads(index.read_text())
    twin = {**document["manifests"][0], "digest": first[:20] + "0" * 51, "annotations": {}}
    document["manifests"].append(twin)
    index.write_text(json.dumps(document))
    with pytest.raises(ImageError, match="several images"):
        resolve(first[:19])


@pytest.mark.parametrize(
    ("there", "named"),
    [
        ("debian:12", "docker.io/library/debian:12"),
        ("debian:12", "docker.io/debian:12"),
        ("debian:12", "index.docker.io/library/debian:12"),
        ("docker.io/library/debian:12", "debian:12"),
        ("docker.io/library/debian:12", "library/debian:12"),
        ("group/tool:latest", "docker.io/group/tool"),
        ("docker.io/group/tool:latest", "group/tool"),
    ],
)
def test_an_image_has_the_names_that_docker_gives_it(store: Store, there: str, named: str) -> None:
    digest = add(store, there, b"x")
    assert resolve(named).digest == resolve(f"{named}@{digest}").digest == digest
    for other in (f"quay.io/{there.removeprefix('docker.io/')}", f"{named.removesuffix(':12')}:13"):
        with pytest.raises(ImageError, match="there is no image"):
            resolve(other)


def test_the_very_name_comes_first(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if it is in a later store: what a command has meant so far, it means still."""
    site = Store(str(tmp_path / "site"))
    monkeypatch.setenv("APPPOT_STORE", f"{store.path}:{site.path}")
    full = add(store, "docker.io/library/debian:12", b"theirs")
    own = add(site, "debian:12", b"own")
    assert resolve("debian:12").digest == own
    assert resolve("docker.io/debian:12").digest == full


def test_names_without_a_host_are_of_the_registry_that_is_set(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest = add(store, "debian:12", b"x")
    (tmp_path / "config.toml").write_text('registry.default = "site.example.org"')
    monkeypatch.setenv("APPPOT_CONFIG", str(tmp_path / "config.toml"))
    config.forget()
    try:
        assert resolve("site.example.org/debian:12").digest == digest
        with pytest.raises(ImageError, match="there is no image"):
            resolve("docker.io/library/debian:12")
    finally:
        config.forget()


def test_equal_content_gives_equal_digests(store: Store, tmp_path: Path) -> None:
    other = Store(str(tmp_path / "other"))
    assert add(store, "a:1", b"x") == add(other, "b:2", b"x")


def test_stores_are_searched_in_order(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    site = Store(str(tmp_path / "site"))
    theirs = add(site, "debian:bookworm", b"site")
    monkeypatch.setenv("APPPOT_STORE", f"{store.path}:{site.path}")
    assert resolve("debian:bookworm").digest == theirs
    ours = add(store, "debian:bookworm", b"own")
    assert resolve("debian:bookworm").digest == ours
    assert resolve(theirs).digest == theirs
    listing.remove(["debian:bookworm"])
    with pytest.raises(ImageError, match="only read from"):
        listing.remove(["debian:bookworm"])
    assert resolve("debian:bookworm").digest == theirs


def test_a_name_is_replaced_only_on_request(store: Store) -> None:
    old = add(store, "a:1", b"old")
    assert add(store, "a:1", b"old") == old  # the same again is no conflict
    with pytest.raises(ImageError, match="exists already"):
        add(store, "a:1", b"new")
    assert resolve("a:1").digest == old
    new = add(store, "a:1", b"new", replace=True)
    assert resolve("a:1").digest == new
    store.clean()
    with pytest.raises(ImageError):
        resolve(old)


def test_rm_keeps_what_others_need(store: Store) -> None:
    add(store, "base:1", b"base")
    add(store, "top:1", b"base", b"changes")
    before = resolve("top:1")
    removed = listing.remove(["base:1"])
    assert removed.images == ("base:1",)
    assert removed.blobs == 1  # its manifest; the configuration and the layer are shared
    assert resolve("top:1") == before
    removed = listing.remove(["top:1"])
    assert blobs(store) == set()
    assert removed.size > len(b"basechanges")


def test_a_folder_among_the_blobs_is_in_nobodys_way(store: Store) -> None:
    add(store, "a:1", b"x")
    os.mkdir(store.blob_path(f"sha256:{'3' * 64}"))
    assert store.remove(["a:1"]).blobs == 3
    assert store.clean().blobs == 0


def test_what_is_freed_is_what_was_taken(store: Store) -> None:
    add(store, "a:1", b"x")
    with open(os.path.join(store.path, "blobs", "sha256", ".tmp-killed"), "wb") as file:
        file.truncate(1 << 40)
    cleaned = store.clean()
    assert (cleaned.temporaries, cleaned.size) == (1, 0)


def test_rm_removes_all_or_nothing(store: Store) -> None:
    add(store, "a:1", b"a")
    with pytest.raises(ImageError, match="there is no image 'b:1'"):
        listing.remove(["a:1", "b:1"])
    assert resolve("a:1")
    assert listing.remove(["a:1", "b:1"], force=True).images == ("a:1",)


def test_rm_of_a_digest_with_several_names(store: Store) -> None:
    digest = add(store, "a:1", b"a")
    assert add(store, "a:2", b"a") == digest
    with pytest.raises(ImageError, match="several names: a:1, a:2"):
        listing.remove([digest])
    assert listing.remove([digest], force=True).images == ("a:1", "a:2")


def test_an_open_layer_stays_readable_after_rm(store: Store) -> None:
    add(store, "a:1", b"layer")
    with open(resolve("a:1").layers[0].path, "rb") as file:
        listing.remove(["a:1"])
        assert file.read() == b"layer"


def test_blobs_that_are_being_added_survive_rm_and_clean(store: Store) -> None:
    add(store, "old:1", b"old")
    with store.writer() as adding:
        layer = adding.add(b"new", model.LAYER_TYPE)
        pending = adding.temporary()
        removed = listing.remove(["old:1"])
        assert removed.images == ("old:1",)
        assert removed.busy
        assert store.clean().busy
        assert os.path.exists(pending)
        adding.image("new:1", [layer], CONFIG)
    assert Path(resolve("new:1").layers[0].path).read_bytes() == b"new"
    assert not os.path.exists(pending)
    assert store.clean().blobs > 0


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("debian:bookwrom", "did you mean 'debian:bookworm'?"),
        ("debian", "did you mean 'debian:bookworm'?"),
        ("debian:buster", "apppot bootstrap debian:buster"),
        ("ubuntu:noble", "apppot bootstrap ubuntu:noble"),
        ("something:else", "apppot images"),
        ("debian:bookworm@sha256:" + "0" * 64, "with another digest"),
    ],
)
def test_hints_for_what_is_not_there(text: str, hint: str, store: Store) -> None:
    add(store, "debian:bookworm", b"x")
    with pytest.raises(ImageError) as error:
        resolve(text)
    assert hint in error.value.hint


def test_an_empty_store_says_how_to_begin(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(ImageError) as error:
        find("a:1")
    assert "apppot bootstrap" in error.value.hint
    assert main(["images"]) == 0
    assert "apppot bootstrap" in capsys.readouterr().err
    assert not os.path.exists(store.path)  # looking makes nothing


def test_the_table_and_its_json(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    digest = add(store, "debian:bookworm", b"x" * 12_345)
    add(store, "a:1", b"x")
    assert main(["images"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["REFERENCE", "DIGEST", "SIZE", "CREATED", "STORE"]
    assert lines[1].split() == [
        "debian:bookworm", digest[7:19], "12", "kB", "2026-01-01", store.path,
    ]  # fmt: skip
    assert main(["images", "--json"]) == 0
    first = json.loads(capsys.readouterr().out)[0]
    assert (first["reference"], first["size"]) == ("debian:bookworm", 12_345)


def test_the_digest_that_a_registry_has_names_an_image_too(store: Store) -> None:
    there, other = (f"sha256:{digit * 64}" for digit in "12")
    digest = add(store, "host:5000/a:1", b"x", annotations={model.ORIGIN_DIGEST: there})
    assert digest != there
    assert resolve(f"host:5000/a@{there}").digest == digest
    assert resolve(f"host:5000/a:1@{there}").digest == digest
    for text in (f"host:5000/a@{other}", f"host:5000/b@{there}"):
        with pytest.raises(ImageError):
            resolve(text)
