"""Images whose layers lie in another store: a user's own on the site's base."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from apppot.errors import ImageError
from apppot.image import listing, model
from apppot.image.model import Descriptor
from apppot.image.store import Store, find, resolve
from tests.unit.stores import CONFIG, add, blobs, rewrite, store

__all__ = ["store"]  # a fixture


@pytest.fixture
def site(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    """Return a second store of the search path, which has a base."""
    site = Store(str(tmp_path / "site"))
    add(site, "base:1", b"low", b"middle")
    monkeypatch.setenv("APPPOT_STORE", f"{store.path}:{site.path}")
    return site


def save(store: Store, name: str, base: str, *tops: bytes) -> str:
    """Add an image of a base's layers, wherever they are, and of new ones."""
    image = resolve(base)
    with store.writer() as adding:
        layers = [Descriptor(model.LAYER_TYPE, layer.digest, layer.size) for layer in image.layers]
        layers += [adding.add(data, model.LAYER_TYPE) for data in tops]
        return adding.image(name, layers, CONFIG, annotations={model.BASE_NAME: base})


def test_layers_come_from_the_site_and_are_not_copied(store: Store, site: Store) -> None:
    save(store, "mine:1", "base:1", b"top")
    layers = resolve("mine:1").layers
    assert [Path(layer.path).read_bytes() for layer in layers] == [b"low", b"middle", b"top"]
    assert [layer.path.startswith(site.path) for layer in layers] == [True, True, False]
    assert len(blobs(store)) == 3  # manifest, configuration, top
    store.clean()
    assert resolve("mine:1").layers == layers
    listing.inspect("mine:1", verify=True)


def test_a_configuration_may_be_elsewhere_too(store: Store, site: Store) -> None:
    save(store, "mine:1", "base:1", b"top")
    document = json.loads(Path(store.blob_path(resolve("mine:1").digest)).read_bytes())
    os.unlink(store.blob_path(document["config"]["digest"]))
    assert resolve("mine:1").config.working_dir == "/w"


def test_a_lost_base_is_named(store: Store, site: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    save(store, "mine:1", "base:1", b"top")
    low = resolve("base:1").layers[0].digest
    monkeypatch.setenv("APPPOT_STORE", store.path)
    with pytest.raises(ImageError) as error:
        resolve("mine:1")
    assert all(text in error.value.message for text in ("'mine:1'", "'base:1'", low, store.path))
    assert "APPPOT_STORE" in error.value.hint


def test_a_damaged_copy_is_passed_over(store: Store, site: Store) -> None:
    add(store, "mine:1", b"low", b"top")
    low = resolve("mine:1").layers[0]
    rewrite(store, low.digest, lambda _: b"lo")
    found = resolve("mine:1").layers[0].path
    assert found == site.blob_path(low.digest)
    rewrite(site, low.digest, lambda _: b"l")
    with pytest.raises(ImageError, match="has 2 bytes, manifest says 3"):
        resolve("mine:1")


def test_no_image_is_named_whose_layers_are_nowhere(store: Store, site: Store) -> None:
    lost = Descriptor(model.LAYER_TYPE, "sha256:" + "1" * 64, 3)
    with store.writer() as adding, pytest.raises(ImageError, match=lost.digest):
        adding.image("mine:1", [lost], CONFIG)
    assert store.entries() == ()


def test_a_job_finds_the_base_by_its_digests(store: Store, site: Store) -> None:
    digest = find("base:1")[1].manifest.digest
    assert resolve(digest).name == "base:1"
    chain = model.chain([layer.digest for layer in resolve("base:1").layers])
    for text in (chain, chain[:19], chain[7:20]):
        assert resolve(text).name == "base:1"
    save(store, "mine:1", chain, b"top")
    assert resolve("mine:1").layers[:2] == resolve("base:1").layers


def test_chains_follow_contents_not_files(store: Store) -> None:
    content = "sha256:" + "2" * 64
    with store.writer() as adding:
        first, second = (adding.add(data, model.LAYER_TYPE) for data in (b"packed", b"plain"))
        for name, blob in (("a:1", first), ("b:1", second)):
            layer = Descriptor(blob.media_type, blob.digest, blob.size, content)
            adding.image(name, [layer], CONFIG)
    assert resolve("a:1").layers[0].content == content
    assert resolve(content).name == "a:1"  # the first of two with the same chain
    top = add(store, "c:1", b"1", b"2")
    layers = [layer.digest for layer in resolve(top).layers]
    # OCI's rule for ChainID: the digest of "CHAIN DIGEST", beginning with the lowest one's digest.
    assert model.chain(layers) == model.digest(f"{layers[0]} {layers[1]}".encode())


def test_entries_of_a_cache_are_no_images(store: Store) -> None:
    with store.writer() as adding:
        layer = adding.add(b"x", model.LAYER_TYPE)
        config = adding.add_json(CONFIG, model.CONFIG_TYPE)
        document = {"schemaVersion": 2, "config": config.json(), "layers": [layer.json()]}
        manifest = adding.add_json(document, model.MANIFEST_TYPE)
        adding.tag("a:1", manifest)
        for key in ("one", "two", "one"):
            adding.tag("", manifest, annotations={model.CACHE: key})
    assert [entry.cache for entry in store.entries()] == ["", "two", "one"]
    assert [line.reference for line in listing.listing().images] == ["a:1"]
    found = store.cached("one")
    assert found is not None
    assert found.used.endswith("Z")
    assert store.cached("three") is None
    listing.remove(["a:1"])
    assert len(blobs(store)) == 3
    assert resolve(manifest.digest).layers[0].size == 1


OPENS = """
import sys
from apppot.image.store import resolve
opened = []
sys.addaudithook(lambda event, values: event == "open" and opened.append(str(values[0])))
resolve("base:1")
print("\\n".join(path for path in opened if not path.endswith((".py", ".pyc"))))
print("apppot.image.elsewhere" in sys.modules)
"""


def test_the_usual_case_opens_nothing_more(store: Store) -> None:
    add(store, "base:1", b"low")
    env = {**os.environ, "XDG_CONFIG_HOME": "/nonexistent"}
    words = [sys.executable, "-c", OPENS]
    done = subprocess.run(words, env=env, capture_output=True, text=True, check=True)
    *opened, loaded = done.stdout.splitlines()
    assert loaded == "False"
    assert [path.split("/")[-2] for path in opened] == ["apppot", "apppot", "own", *["sha256"] * 2]
