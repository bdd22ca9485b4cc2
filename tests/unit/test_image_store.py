"""Stores: what is written is read back, whatever happens in between; damage is told."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apppot import process
from apppot.__main__ import main
from apppot.errors import AppPotError, ImageError
from apppot.image import listing, model, writer
from apppot.image.model import Descriptor
from apppot.image.store import Store, find, resolve

CONFIG: dict[str, Any] = {
    "architecture": "amd64",
    "created": "2026-01-01T00:00:00Z",
    "config": {"Env": ["A=b"], "Cmd": ["/bin/sh"], "User": "1000", "WorkingDir": "/w"},
}


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    path = tmp_path / "own"
    monkeypatch.setenv("APPPOT_STORE", str(path))
    return Store(str(path))


def add(
    store: Store, name: str, *contents: bytes, config: dict[str, Any] | None = None, **more: Any
) -> str:
    """Add an image whose layers have these contents; return its digest."""
    with store.writer() as adding:
        layers = [adding.add(data, model.LAYER_TYPE) for data in contents]
        return adding.image(name, layers, CONFIG if config is None else config, **more)


def blobs(store: Store) -> set[str]:
    return set(os.listdir(os.path.join(store.path, "blobs", "sha256")))


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


def rewrite(store: Store, digest: str, change: Any) -> None:
    path = Path(store.blob_path(digest))
    data = path.read_bytes()
    path.unlink()
    path.write_bytes(change(data))


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
        adding.tag("a:1", adding.add_json(document, model.MANIFEST_TYPE))
    entry = store.entries()[0]
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


# --- Failing writers -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "hint"),
    [(errno.ENOSPC, "free some space"), (errno.EDQUOT, "quota"), (errno.EROFS, "APPPOT_STORE")],
)
@pytest.mark.parametrize("function", ["rename", "fsync", "fchmod"])
def test_failing_writes_leave_the_store_as_it_was(
    number: int, hint: str, function: str, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(store, "a:1", b"a")
    index, there = Path(store.path, "index.json").read_bytes(), blobs(store)

    def fail(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(f"apppot.image.writer.os.{function}", fail)
        with pytest.raises(ImageError) as error:
            add(store, "b:1", b"b")
    assert hint in error.value.hint
    assert Path(store.path, "index.json").read_bytes() == index
    store.clean()
    assert blobs(store) == there


def test_an_unwritable_store_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    store = Store(str(file / "store"))
    with pytest.raises(ImageError, match="cannot write to the store") as error:
        add(store, "a:1", b"a")
    assert "APPPOT_STORE" in error.value.hint


def test_a_read_only_store_is_read_and_not_written(store: Store, tmp_path: Path) -> None:
    add(store, "a:1", b"a")
    folders = (store.path, os.path.join(store.path, "blobs", "sha256"))
    for folder in folders:
        os.chmod(folder, 0o555)
    for above in (tmp_path, *tmp_path.parents):  # only a child of root needs to pass
        above.chmod(0o755)
        if above.name.startswith("pytest-of-"):
            break
    try:
        assert process.in_child(_use_read_only, 60) == ["a:1", "cannot write", "cannot write"]
    finally:
        for folder in folders:
            os.chmod(folder, 0o755)


def _use_read_only() -> list[str]:
    if os.getuid() == 0:  # root may write everywhere
        os.setgid(65534)
        os.setuid(65534)
    store = Store(os.environ["APPPOT_STORE"])
    results = [resolve("a:1").name]
    for call in (lambda: add(store, "b:1", b"b"), lambda: listing.remove(["a:1"])):
        try:
            call()
            results.append("wrote")
        except ImageError as error:
            results.append(error.message[:12])
    return results


def test_a_wrong_expected_digest_is_refused(store: Store) -> None:
    with store.writer() as adding:
        path = adding.temporary()
        Path(path).write_bytes(b"x")
        with pytest.raises(ImageError, match="should have the digest"):
            adding.take(path, model.LAYER_TYPE, expected="sha256:" + "0" * 64)
    assert blobs(store) == set()


def _add_many(path: str, number: int, count: int) -> None:
    store = Store(path)
    for index in range(count):
        add(store, f"image{number}:{index}", b"shared", f"{number} {index}".encode())
        if index % 3 == 2:
            store.remove([f"image{number}:{index - 1}"])


def test_many_writers_and_removers_lose_nothing(store: Store) -> None:
    context = multiprocessing.get_context("spawn")
    workers = [context.Process(target=_add_many, args=(store.path, n, 9)) for n in range(5)]
    for worker in workers:
        worker.start()
    while any(worker.is_alive() for worker in workers):
        for entry in store.entries():  # readers see a whole index at any moment
            assert entry.reference
        time.sleep(0.002)
    assert [worker.exitcode for worker in workers] == [0] * 5
    names = {entry.reference for entry in store.entries()}
    assert names == {f"image{n}:{i}" for n in range(5) for i in range(9) if i % 3 != 1}
    for name in names:
        assert (
            Path(resolve(name).layers[1].path).read_bytes() == name[5:].replace(":", " ").encode()
        )
    store.clean()
    assert len(blobs(store)) == 1 + 1 + 2 * len(names)  # configuration, shared layer, own ones


KILLED = textwrap.dedent(
    """
    import sys
    from apppot.image import model
    from apppot.image.store import Store
    store = Store(sys.argv[1])
    number = 0
    while True:
        with store.writer() as adding:
            layers = [adding.add(bytes([number % 256]) * 300_000, model.LAYER_TYPE)]
            adding.image("a:1", layers, {"created": str(number)}, replace=True)
        store.remove([f"b:{number - 1}"])
        with store.writer() as adding:
            adding.tag(f"b:{number}", store.entries()[0].manifest)
        if number == 0:
            print("ready", flush=True)
        number += 1
    """
)


def test_a_writer_killed_at_any_moment_leaves_a_sound_store(store: Store) -> None:
    dice = random.Random(4242)
    for _ in range(25):
        with subprocess.Popen(
            [sys.executable, "-c", KILLED, store.path], stdout=subprocess.PIPE
        ) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(dice.uniform(0, 0.03))
            process.send_signal(signal.SIGKILL)
        for entry in store.entries():
            image = store.image(entry)
            for layer in image.layers:
                listing.verify_blob(layer.path, layer.digest)
        store.clean()
        kept = {entry.manifest.digest for entry in store.entries()}
        assert len(blobs(store)) <= 3 * len(kept)
        assert not [n for n in (*blobs(store), *os.listdir(store.path)) if n.startswith(".tmp-")]


def test_clean_removes_what_a_killed_writer_left(store: Store) -> None:
    add(store, "a:1", b"a")
    folder = Path(store.path, "blobs", "sha256")
    (folder / ".tmp-dead").write_bytes(b"x" * 100)
    (Path(store.path) / ".tmp-index").write_bytes(b"y" * 10)
    (folder / ("0" * 64)).write_bytes(b"z")
    cleaned = store.clean()
    assert (cleaned.temporaries, cleaned.blobs, cleaned.size) == (2, 1, 111)
    assert resolve("a:1")
    assert Store(store.path + "-none").clean() == writer.Cleaned()


@settings(max_examples=25, deadline=None)
@given(
    steps=st.lists(
        st.tuples(
            st.sampled_from(("add", "replace", "remove", "clean")),
            st.sampled_from(("a:1", "b:1", "c/d:2")),
            st.lists(st.sampled_from((b"1", b"22", b"333")), min_size=1, max_size=3),
        ),
        max_size=12,
    )
)
def test_any_history_leaves_what_a_dictionary_would(
    steps: list[tuple[str, str, list[bytes]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    store = Store(str(tmp_path_factory.mktemp("store")))
    expected: dict[str, list[bytes]] = {}
    for step, name, layers in steps:
        if step == "remove" and os.path.isdir(os.path.join(store.path, "blobs")):
            store.remove([name])
            expected.pop(name, None)
        elif step == "clean":
            store.clean()
        elif step == "replace" or name not in expected:
            add(store, name, *layers, replace=step == "replace")
            expected[name] = layers
    found = {
        entry.reference: [Path(layer.path).read_bytes() for layer in store.image(entry).layers]
        for entry in store.entries()
    }
    assert found == expected
    shutil.rmtree(store.path)


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
