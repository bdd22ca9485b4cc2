"""Damaged and strange stores are told of, never a traceback, and nothing is thrown away."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apppot.__main__ import main
from apppot.errors import AppPotError, ImageError
from apppot.image import listing, model
from apppot.image.model import Descriptor
from apppot.image.store import Entry, Store, resolve
from tests.unit.stores import CONFIG, add, blobs, rewrite, store

__all__ = ["store"]  # a fixture

DAMAGES: dict[str, Any] = {
    "index is not JSON": lambda s, _: Path(s.path, "index.json").write_bytes(b"{"),
    "index is binary": lambda s, _: Path(s.path, "index.json").write_bytes(bytes(range(256))),
    "index is a list": lambda s, _: Path(s.path, "index.json").write_bytes(b"[]"),
    "index is empty": lambda s, _: Path(s.path, "index.json").write_bytes(b""),
    "index has no digest": lambda s, _: Path(s.path, "index.json").write_bytes(
        b'{"manifests":[{"size":1}]}'
    ),
    "index leads out": lambda s, _: Path(s.path, "index.json").write_bytes(
        b'{"manifests":[{"size":1,"digest":"sha256:../../../../etc/passwd"}]}'
    ),
    "index is deep": lambda s, _: Path(s.path, "index.json").write_bytes(b"[" * 200_000),
    "index is a folder": lambda s, _: turn_into_folder(Path(s.path, "index.json")),
    "manifest is missing": lambda s, d: os.unlink(s.blob_path(d["manifest"])),
    "manifest is cut": lambda s, d: rewrite(s, d["manifest"], lambda b: b[:-1]),
    "manifest is longer": lambda s, d: rewrite(s, d["manifest"], lambda b: b + b" "),
    "manifest has another byte": lambda s, d: rewrite(
        s, d["manifest"], lambda b: b.replace(b"2", b"3", 1)
    ),
    "config is missing": lambda s, d: os.unlink(s.blob_path(d["config"])),
    "config has another byte": lambda s, d: rewrite(
        s, d["config"], lambda b: b.replace(b"amd64", b"amd65")
    ),
    "layer is missing": lambda s, d: os.unlink(s.blob_path(d["layer"])),
    "layer is cut": lambda s, d: rewrite(s, d["layer"], lambda b: b[:-1]),
}


def turn_into_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_told_and_never_a_traceback(
    damage: str, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    manifest = add(store, "a:1", b"layer")
    document = json.loads(Path(store.blob_path(manifest)).read_bytes())
    digests = {
        "manifest": manifest,
        "config": document["config"]["digest"],
        "layer": document["layers"][0]["digest"],
    }
    DAMAGES[damage](store, digests)
    with pytest.raises(ImageError) as error:
        resolve("a:1")
    assert store.path in str(error.value) or "a:1" in str(error.value)
    for arguments in (["inspect", "a:1"], ["images"]):
        assert main(arguments) == 1
        assert "apppot: " in capsys.readouterr().err
    if damage.startswith("index"):
        with pytest.raises(ImageError):
            add(store, "b:1", b"more")  # a damaged index is not built upon
        with pytest.raises(ImageError):
            store.clean()  # and nothing is thrown away by it
        assert os.path.exists(store.blob_path(digests["layer"]))
    else:
        assert main(["rm", "a:1"]) == 0
        assert blobs(store) == set()


def test_damage_that_keeps_the_size_is_found_by_verify(store: Store) -> None:
    add(store, "a:1", b"layer")
    assert listing.inspect("a:1", verify=True)["verified"]
    layer = resolve("a:1").layers[0]
    rewrite(store, layer.digest, lambda _: b"Layer")
    assert resolve("a:1")
    with pytest.raises(ImageError, match="has the digest"):
        listing.inspect("a:1", verify=True)


def test_a_damaged_image_keeps_clean_from_removing_blobs_of_unknown_use(store: Store) -> None:
    manifest = add(store, "a:1", b"layer")
    layer = resolve("a:1").layers[0].path
    os.unlink(store.blob_path(manifest))
    with pytest.raises(ImageError, match="damaged"):
        store.clean()
    assert os.path.exists(layer)


JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=5)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=120, deadline=None)
@given(
    key=st.sampled_from(("config", "layers", "architecture", "created", "Env", "Cmd", "User")),
    value=JSON,
)
def test_strange_documents_are_errors_of_images(
    key: str, value: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = Store(str(tmp_path_factory.mktemp("store")))
    config = json.loads(json.dumps(CONFIG))
    manifest: dict[str, Any] = {}
    if key in ("config", "layers"):
        manifest[key] = value
    elif key in ("architecture", "created"):
        config[key] = value
    else:
        config["config"][key] = value
    with store.writer() as adding:
        layer = adding.add(b"x", model.LAYER_TYPE).json()
        blob = adding.add_json(config, model.CONFIG_TYPE).json()
        document = {"config": blob, "layers": [layer], **manifest}
        entry = Entry("a:1", adding.add_json(document, model.MANIFEST_TYPE))
    try:
        image = store.image(entry)
    except ImageError:
        return
    assert all(isinstance(word, str) for word in (*image.config.env, *image.config.cmd))


def test_layers_of_other_kinds_are_named(store: Store) -> None:
    with store.writer() as adding:
        tar = adding.add(b"x", "application/vnd.oci.image.layer.v1.tar+gzip")
        adding.image("a:1", [tar], CONFIG)
    with pytest.raises(ImageError, match="cannot be booted"):
        resolve("a:1")
    with store.writer() as adding:
        adding.image("b:1", [], CONFIG)
    with pytest.raises(ImageError, match="no layers"):
        resolve("b:1")


def test_descriptors_are_strict() -> None:
    good = {"mediaType": "t", "digest": "sha256:" + "a" * 64, "size": 1}
    assert model.descriptor(good, "here") == Descriptor("t", good["digest"], 1)  # type: ignore[arg-type]
    wrong: tuple[tuple[str, Any], ...] = (
        ("digest", "sha256:" + "A" * 64),
        ("digest", 5),
        ("size", -1),
        ("size", "1"),
        ("size", None),
        ("mediaType", 5),
    )
    for key, value in wrong:
        with pytest.raises(AppPotError, match="here has a descriptor"):
            model.descriptor({**good, key: value}, "here")
