"""fsck names each damaged object and what it breaks; gc and du tell the rest of a store."""

from __future__ import annotations

import contextlib
import io
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apppot.__main__ import main
from apppot.errors import ImageError
from apppot.image import cleaning, erofs, fsck, listing, model, space
from apppot.image.store import Store, resolve
from tests.unit.stores import CONFIG, add, blobs, rewrite, store
from tests.unit.test_image_damage import DAMAGES, JSON

__all__ = ["store"]  # a fixture
LOW, TOP, OWN = (
    bytes(erofs.MAGIC_OFFSET) + erofs.MAGIC + bytes(8) + b"\x0c" + bytes(10) + name
    for name in (b"low", b"top", b"own")
)


@pytest.fixture
def three(store: Store) -> Store:
    """Return a store with a base, an image on it, and another image."""
    add(store, "base:1", LOW)
    add(store, "mine:1", LOW, TOP)
    add(store, "other:1", OWN, config={**CONFIG, "architecture": "arm64"})
    return store


def digests(name: str) -> dict[str, str]:
    image = resolve(name)
    document = json.loads(
        Path(Store(os.environ["APPPOT_STORE"]).blob_path(image.digest)).read_text()
    )
    return {
        "manifest": image.digest,
        "config": document["config"]["digest"],
        "layer": image.layers[0].digest,
    }


def test_a_sound_store(three: Store, capsys: pytest.CaptureFixture[str]) -> None:
    report = fsck.check(three)
    assert (report.images, report.blobs, report.damage, report.notes) == (3, 8, (), ())
    assert report.size == sum(f.stat().st_size for f in Path(three.path, "blobs/sha256").iterdir())
    assert main(["fsck"]) == 0
    assert "sound" in capsys.readouterr().out
    assert main(["fsck", "--json", "--all-stores"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["sound"] is True


@pytest.mark.parametrize("damage", DAMAGES)
def test_every_damage_is_found_with_all_that_it_breaks(
    damage: str, three: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    found = digests("base:1")
    DAMAGES[damage](three, found)
    report = fsck.check(three)
    if damage.startswith("index"):
        path, broken = os.path.join(three.path, "index.json"), set()
    else:
        what = damage.partition(" ")[0]
        path = three.blob_path(found[what])
        broken = {"base:1"} if what == "manifest" else {"base:1", "mine:1"}
    assert [problem.path for problem in report.damage] == [path]
    assert set(report.damage[0].images) == broken
    assert main(["fsck"]) == 1
    told = capsys.readouterr().out
    assert path in told
    assert all(f"breaks {name}" in told for name in broken)
    assert "other:1" not in told


def test_damage_that_size_does_not_show(three: Store) -> None:
    low = resolve("base:1").layers[0]
    rewrite(three, low.digest, lambda data: data[:-1] + b"x")
    (problem,) = fsck.check(three).damage
    assert "digest" in problem.what
    assert problem.images == ("base:1", "mine:1")


def test_layers_that_are_no_file_systems(store: Store) -> None:
    add(store, "a:1", b"no magic")
    add(store, "b:1", LOW[:1036] + b"\x0d" + LOW[1037:])
    report = fsck.check(store)
    assert {p.images: p.what.split(" ")[1:3] for p in report.damage} == {
        ("a:1",): ["is", "not"],
        ("b:1",): ["has", "blocks"],
    }


def test_what_only_takes_space_is_noted(three: Store) -> None:
    root, folder = Path(three.path), Path(three.path, "blobs", "sha256")
    with three.writer() as adding:
        unused = adding.add(b"unused", model.LAYER_TYPE)
    (folder / ".tmp-x").touch()
    (root / "stray").touch()
    (root / "oci-layout").unlink()
    (root / "index.json").chmod(0o666)
    Path(three.blob_path(resolve("base:1").layers[0].digest)).chmod(0o600)
    os.chmod(three.path, 0o755)
    report = fsck.check(three)
    assert report.damage == ()
    notes = {os.path.relpath(note.path, root): note.what for note in report.notes}
    assert len(notes) == 6
    assert notes["blobs/sha256/" + unused.digest[7:]] == "no image needs it"
    assert "killed writer" in notes["blobs/sha256/.tmp-x"]
    assert notes["stray"] == "not of the store"
    assert notes["index.json"] == "other users can write to it"
    (folder / ("0" * 64)).write_bytes(b"x")
    (problem,) = fsck.check(three).damage
    assert problem.images == ()


def test_layers_of_the_site_are_read_too(
    three: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    mine = Store(str(tmp_path / "mine"))
    monkeypatch.setenv("APPPOT_STORE", f"{mine.path}:{three.path}")
    assert main(["tag", "base:1", "copy:2"]) == 0
    assert main(["tag", "other:1", "copy:2"]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main(["tag", "--force", "mine:1", "copy:2"]) == 0
    assert resolve("copy:2").digest == resolve("mine:1").digest
    assert main(["gc"]) == 0
    assert len(blobs(mine)) == 2  # manifest and configuration
    assert main(["fsck"]) == 0
    totals = {total.store: total for total in map(space.measure, (mine, three))}
    (image,) = totals[mine.path].images
    assert image.elsewhere == len(LOW) + len(TOP)
    assert image.size - image.elsewhere == image.unique == totals[mine.path].size
    low = resolve("base:1").layers[0]
    rewrite(three, low.digest, lambda data: data[:-1] + b"x")
    (problem,) = fsck.check(mine).damage
    assert (problem.path, problem.images) == (low.path, ("copy:2",))
    assert main(["fsck", "--all-stores"]) == 1
    os.unlink(low.path)
    (problem,) = fsck.check(mine).damage
    assert problem.what == "it is missing"


def test_what_is_removed_meanwhile_is_no_damage(
    three: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = fsck._wrong

    def wrong(path: str) -> str:
        three.remove(["base:1", "mine:1"])
        return real(path)

    monkeypatch.setattr(fsck, "_wrong", wrong)
    assert fsck.check(three).damage == ()


def test_space_is_counted_once(three: Store, capsys: pytest.CaptureFixture[str]) -> None:
    with three.writer() as adding:
        adding.add(b"u" * 50, model.LAYER_TYPE)
        step = adding.add(LOW + b"step", model.LAYER_TYPE)
        config = adding.add_json({}, model.CONFIG_TYPE).json()
        manifest = adding.add_json({"config": config, "layers": [step.json()]}, model.MANIFEST_TYPE)
        adding.tag("", manifest, annotations={model.CACHE: "key"})
    total = space.measure(three)
    by_name = {image.reference: image for image in total.images}
    assert set(by_name) == {"base:1", "mine:1", "other:1"}
    assert total.unused == 50
    assert total.cache == step.size + config["size"] + manifest.size
    assert total.size == sum(f.stat().st_size for f in Path(three.path, "blobs/sha256").iterdir())
    manifest_size = Path(three.blob_path(resolve("mine:1").digest)).stat().st_size
    assert by_name["mine:1"].unique == len(TOP) + manifest_size
    for name, image in by_name.items():  # what du promises is what rm gives
        before = space.measure(three).size
        three.clean()
        before -= total.unused if name == "base:1" else 0
        gone = listing.remove([name])
        assert gone.size >= image.unique
        assert before - space.measure(three).size == gone.size
    assert main(["du", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["cache"] == total.cache
    assert main(["du"]) == 0
    assert "for builds" in capsys.readouterr().out


def step(store: Store, key: str, *, age: float | None) -> str:
    """Make a cached step that was used so many days ago; return its layer's digest."""
    with store.writer() as adding:
        layer = adding.add(LOW + key.encode(), model.LAYER_TYPE)
        config = adding.add_json({}, model.CONFIG_TYPE).json()
        document = {"config": config, "layers": [layer.json()]}
        manifest = adding.add_json(document, model.MANIFEST_TYPE)
        adding.tag("", manifest, annotations={model.CACHE: key})
    index = Path(store.path, "index.json")
    document = json.loads(index.read_text())
    for value in document["manifests"]:
        if value["annotations"].get(model.CACHE) == key:
            stamp = (
                "once"
                if age is None
                else time.strftime(
                    "%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - age * cleaning.DAY)
                )
            )
            value["annotations"][model.USED] = stamp
    index.write_text(json.dumps(document))
    return layer.digest


def test_gc_drops_steps_by_their_age(three: Store, capsys: pytest.CaptureFixture[str]) -> None:
    layers = {
        key: step(three, key, age=age) for key, age in [("new", 29), ("old", 31), ("odd", None)]
    }
    Path(three.path, ".tmp-x").touch()
    Path(three.path, "partial").mkdir()
    new, old = (Path(three.path, "partial", name) for name in ("new", "old"))
    new.write_bytes(b"12345")
    old.touch()
    os.utime(old, (1, 1))
    before = blobs(three)
    assert space.measure(three).unused == 5
    assert main(["gc", "--dry-run"]) == 0
    told = capsys.readouterr()
    assert "would remove 2 steps, 4 blobs and 2 temporary files, " in told.err
    assert three.blob_path(layers["old"]) in told.out
    assert blobs(three) == before
    assert main(["gc", "--json"]) == 0
    done = json.loads(capsys.readouterr().out)
    assert (done["steps"], done["blobs"], done["temporaries"]) == (2, 4, 2)
    assert {f"sha256:{name}" for name in blobs(three)} & set(layers.values()) == {layers["new"]}
    assert [note.path for note in fsck.check(three).notes] == [str(new)]
    assert main(["gc", "--days", "0"]) == 0
    assert [entry.cache for entry in three.entries()] == [""] * 3
    assert fsck.check(three).notes == ()


def test_gc_waits_for_writers(three: Store, capsys: pytest.CaptureFixture[str]) -> None:
    with three.writer() as adding:
        adding.add(b"x", model.LAYER_TYPE)
        assert main(["gc"]) == 1
        assert "being written" in capsys.readouterr().err
    assert main(["gc"]) == 0


def test_gc_keeps_what_other_stores_need(
    three: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = Store(str(tmp_path / "top"))
    monkeypatch.setenv("APPPOT_STORE", f"{top.path}:{three.path}")
    listing.tag("mine:1", "copy:1")
    monkeypatch.setenv("APPPOT_STORE", f"{three.path}:{top.path}")
    three.remove(["mine:1", "base:1"])
    assert resolve("copy:1").layers[1].path.startswith(three.path)
    assert fsck.check(top).damage == ()


def test_verbs_in_a_store_that_is_not_there(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("APPPOT_STORE", str(tmp_path / "none"))
    for verb in ("gc", "fsck", "du"):
        assert main([verb]) == 0
        assert main([verb, "--json"]) == 0
    assert not (tmp_path / "none").exists()


VERBS = ("images", "fsck", "du", "gc -n", "gc", "inspect a:1", "tag a:1 b:1", "rm a:1")


def run_all(store: Store) -> None:
    """Run each verb that reads a store: none may give a traceback."""
    out = io.TextIOWrapper(io.BytesIO(), "utf-8")
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.setenv("APPPOT_STORE", store.path)
        with contextlib.redirect_stderr(io.StringIO()):
            assert all(main(words.split()) in (0, 1) for words in VERBS)


@settings(max_examples=60)
@given(index=st.binary(max_size=80) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_index_is_read(index: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("store")
    (path / "index.json").write_bytes(index)
    (path / "blobs" / "sha256").mkdir(parents=True)
    run_all(Store(str(path)))


ANNOTATIONS = JSON | st.dictionaries(
    st.sampled_from((model.REF_NAME, model.CACHE, model.USED, model.CONTENT)), JSON
)


@settings(max_examples=60)
@given(
    key=st.sampled_from(("digest", "size", "mediaType", "annotations")),
    value=JSON | st.text(max_size=3) | st.integers(),
    annotations=ANNOTATIONS,
    data=st.binary(max_size=20) | JSON.map(lambda value: json.dumps(value).encode()),
    place=st.sampled_from(("manifest", "config", "layer")),
)
def test_any_descriptor_and_blob_are_read(
    key: str,
    value: Any,
    annotations: Any,
    data: bytes,
    place: str,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    store = Store(str(tmp_path_factory.mktemp("store")))
    with store.writer() as adding:
        strange = adding.add(data, model.LAYER_TYPE).json()
        layer = adding.add(LOW, model.LAYER_TYPE).json()
        config = adding.add_json(CONFIG, model.CONFIG_TYPE).json()
        document = {
            "config": {**strange, "mediaType": model.CONFIG_TYPE} if place == "config" else config,
            "layers": [layer, {**layer, key: value}, strange if place == "layer" else layer],
            "annotations": annotations,
        }
        manifest = adding.add_json(document, model.MANIFEST_TYPE).json()
    lines = [
        {**(strange if place == "manifest" else manifest), "annotations": {model.REF_NAME: "a:1"}},
        {**manifest, "annotations": annotations},
        {**manifest, key: value},
    ]
    Path(store.path, "index.json").write_text(json.dumps({"manifests": lines[: 1 + len(data) % 3]}))
    run_all(store)


def test_names_that_a_terminal_would_act_on_are_not_shown(
    store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    add(store, "a:1", LOW, config={**CONFIG, "created": "\x1b[2J"})
    index = Path(store.path, "index.json")
    index.write_text(index.read_text().replace("a:1", "\\u001b]0;x\\ud800"))
    for words in (["images"], ["du"], ["fsck"]):
        main(words)
        told = capsys.readouterr()
        assert "\x1b" not in told.out + told.err
    with pytest.raises(ImageError):
        resolve("a:1")
