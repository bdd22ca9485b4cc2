"""Changes files: the trailer, what is left out, what is shown."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apppot.errors import AppPotError, ImageError, UsageError
from apppot.image import (
    changefile,
    changes,
    entries,
    erofs,
    exclude,
    model,
    saving,
    saving_changes,
    showing,
)
from apppot.image.changefile import FOOTER, MAGIC, Base
from apppot.image.model import Image, ImageConfig, Layer
from apppot.image.store import Store, resolve
from tests.unit.changes_archives import archive
from tests.unit.stores import add, store

__all__ = ["store"]  # a fixture

try:
    PROGRAM = erofs.mkfs_program()
except AppPotError as error:
    PROGRAM, WHY = "", str(error)
else:
    WHY = ""
needs_mkfs = pytest.mark.skipif(not PROGRAM, reason=f"needs mkfs.erofs: {WHY}")

CONTENT = "sha256:" + "c" * 64
BASE = Base("debian:x", "sha256:" + "d" * 64, model.chain([CONTENT]), 1)
IMAGE = Image("debian:x", BASE.digest, (Layer(CONTENT, 1, "/l", content=CONTENT),), ImageConfig())


def plain_file(tmp_path: Path, document: Any = None, layer: bytes = b"") -> Path:
    """Write a changes file whose layer is nothing but a superblock's magic."""
    body = layer or bytes(1024) + erofs.MAGIC + bytes(4096 - 1028)
    if document is None:
        digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
        data = changes.trailer({"digest": digest, "size": len(body), "content": CONTENT}, BASE, {})
    else:
        text = json.dumps(document).encode()
        data = text + FOOTER.pack(MAGIC, 1, 0, len(text), hashlib.sha256(text).digest())
    path = tmp_path / "x.changes"
    path.write_bytes(body + data)
    return path


def test_trailer_comes_back(tmp_path: Path) -> None:
    path = plain_file(tmp_path)
    found = changefile.read(str(path))
    assert found.base == BASE
    assert (found.layer.size, found.layer.content, found.layer.path) == (4096, CONTENT, str(path))
    assert changefile.is_changes(str(path))


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_any_damage_of_the_trailer_is_an_error(data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = plain_file(Path(folder))
        whole = path.read_bytes()
        at = data.draw(st.integers(4096, len(whole) - 1))
        value = data.draw(st.integers(0, 255).filter(lambda byte: byte != whole[at]))
        path.write_bytes(whole[:at] + bytes([value]) + whole[at + 1 :])
        with pytest.raises(ImageError):
            changefile.read(str(path))


@given(st.integers(0, 5000))
@settings(max_examples=60, deadline=None)
def test_a_file_that_was_cut_is_an_error(lost: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = plain_file(Path(folder))
        whole = path.read_bytes()
        path.write_bytes(whole[: max(0, len(whole) - 1 - lost)])
        with pytest.raises(ImageError):
            changefile.read(str(path))


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=80) | st.just(CONTENT),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=6,
)
PART = st.dictionaries(
    st.sampled_from(("digest", "size", "content", "name", "chain", "layers", "config")), VALUES
)


@given(
    st.dictionaries(
        st.sampled_from(("layer", "base", "config", "created", "tool", "schema")), PART | VALUES
    )
    | VALUES
)
@settings(max_examples=300, deadline=None)
def test_hostile_trailers_are_errors(document: Any) -> None:
    with tempfile.TemporaryDirectory() as folder, pytest.raises(ImageError):
        changefile.read(str(plain_file(Path(folder), document or {})))


@given(st.binary(max_size=9000), st.integers(0, (1 << 64) - 1))
@settings(max_examples=200, deadline=None)
def test_random_bytes_are_errors(body: bytes, length: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x"
        path.write_bytes(body + FOOTER.pack(MAGIC, 1, 0, length, bytes(32)))
        with pytest.raises(ImageError):
            changefile.read(str(path))


def test_a_deep_trailer_is_an_error(tmp_path: Path) -> None:
    text = b"[" * 100_000
    path = tmp_path / "deep"
    footer = FOOTER.pack(MAGIC, 1, 0, len(text), hashlib.sha256(text).digest())
    path.write_bytes(bytes(4096) + text + footer)
    with pytest.raises(ImageError, match="not JSON"):
        changefile.read(str(path))


def test_other_files_are_told_what_they_are(tmp_path: Path) -> None:
    path = tmp_path / "plain"
    path.write_bytes(b"hello")
    with pytest.raises(ImageError, match="not a changes file"):
        changefile.read(str(path))
    with pytest.raises(ImageError, match="No such file"):
        changefile.read(str(tmp_path / "none"))
    with pytest.raises(ImageError):
        changefile.read(str(tmp_path))
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ImageError):
        changefile.read(str(tmp_path / "fifo"))
    whole = plain_file(tmp_path)
    whole.write_bytes(whole.read_bytes()[:-1])
    with pytest.raises(ImageError, match="end is missing"):
        changefile.read(str(whole))
    newer = tmp_path / "newer"
    newer.write_bytes(bytes(4096) + FOOTER.pack(MAGIC, 2, 0, 0, bytes(32)))
    with pytest.raises(ImageError, match="version 2"):
        changefile.read(str(newer))


def test_changes_go_on_their_base_only(tmp_path: Path) -> None:
    path = str(plain_file(tmp_path))
    stacked = changefile.stacked(IMAGE, [path])
    assert [layer.path for layer in stacked.layers] == ["/l", path]
    other = replace(IMAGE, name="other:1", layers=(*IMAGE.layers, *IMAGE.layers))
    with pytest.raises(ImageError) as caught:
        changefile.stacked(other, [path])
    message = caught.value.message
    other_chain = model.chain([CONTENT, CONTENT])
    assert BASE.chain[:19] in message
    assert other_chain[:19] in message
    assert "debian:x" in message
    assert "other:1" in message
    with pytest.raises(ImageError):  # a second time: its base is no longer what is below
        changefile.stacked(IMAGE, [path, path])


def test_a_base_stored_otherwise_is_the_same(tmp_path: Path) -> None:
    compressed = replace(IMAGE.layers[0], digest="sha256:" + "e" * 64)
    assert changefile.stacked(replace(IMAGE, layers=(compressed,)), [str(plain_file(tmp_path))])


@needs_mkfs
def test_writing_is_whole_or_nothing(tmp_path: Path) -> None:
    target = tmp_path / "a.changes"
    files = archive(("etc", None), ("etc/new", b"x" * 5000), ("tmp", None), ("tmp/junk", b"y"))
    made = changes.write(str(target), files, BASE, {"config": {"Env": ["A=b"]}}, ("tmp/*",))
    found = changefile.read(str(target))
    assert made.size == target.stat().st_size < 20_000
    assert found.config["config"] == {"Env": ["A=b"]}
    assert found.config["rootfs"]["diff_ids"] == [found.layer.content]
    with target.open("rb") as file:
        assert f"sha256:{hashlib.sha256(file.read(found.layer.size)).hexdigest()}" == (
            found.layer.digest
        )
    before = target.read_bytes()
    with pytest.raises(ImageError):
        changes.write(str(target), io.BytesIO(b"no archive" * 100), BASE, {})
    assert target.read_bytes() == before
    assert os.listdir(tmp_path) == ["a.changes"]
    with pytest.raises(UsageError):
        changes.write(str(tmp_path), files, BASE, {})


@needs_mkfs
def test_the_same_changes_give_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    one, two = tmp_path / "one", tmp_path / "two"
    content = [(f"f{n}", os.urandom(10) * 5000) for n in range(20)]
    changes.write(str(one), archive(*content), BASE, {})
    changes.write(str(two), archive(*reversed(content)), BASE, {})
    assert one.read_bytes() == two.read_bytes()


# -- what is left out


def test_patterns_are_those_of_fnmatch_without_pathname() -> None:
    without = changes.left_out(("tmp/*", "var/log/*.log", "etc/machine-id"))
    assert without is not None
    gone = ("tmp/a", "tmp/a/b", "var/log/apt/x.log", "etc/machine-id", "etc/.wh.machine-id")
    assert [path for path in gone if not without(path)] == []
    assert [
        path for path in ("tmp", "var/log/apt", "etc", "etc/machine-id2") if without(path)
    ] == []
    assert changes.left_out(()) is None


def test_what_matches_goes_with_all_that_is_in_it() -> None:
    without = changes.left_out(("home/x/cache",))
    assert without is not None
    assert without("home/x/cache/a/b")
    assert not without("home/x/cached")


def test_lists_of_patterns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exclude, "configured", lambda: ("srv/*", "!var/log/*.log"))
    found = exclude.patterns(["/opt/x/", "!tmp/*"])
    assert {"srv/*", "opt/x"} <= set(found)
    assert {"var/log/*.log", "tmp/*"}.isdisjoint(found)
    assert exclude.patterns(["a"], defaults=False) == ("a",)
    for bad in ("", "/", "a\0b", "../x", "x" * 2000):
        with pytest.raises(UsageError):
            exclude.patterns([bad])


def test_folders_that_daemons_need_are_kept() -> None:
    without = changes.left_out(exclude.DEFAULTS)
    assert without is not None
    kept = ("tmp", "run", "var/log/nginx", "var/cache/apt/archives", "etc/ssh", "etc/passwd")
    assert [path for path in kept if without(path)] == []
    gone = ("run/x.pid", "var/log/nginx/error.log", "etc/ssh/ssh_host_rsa_key", "tmp/.X0")
    assert [path for path in gone if not without(path)] == []


# -- what is shown


def listed(*files: tuple[str, bytes | None]) -> tuple[entries.Listing, set[bytes], set[bytes]]:
    return entries.of_archive(archive(*files))


def test_show_tells_added_changed_and_deleted() -> None:
    base, _, _ = listed(("d", None), ("d/x", b"1"), ("d/y", b"2"), ("e", None), ("e/z", b"3"))
    own, deleted, opaque = listed(
        ("d", None), ("d/x", b"11"), ("d/.wh.y", b""), ("d/n", b"4"), ("e", None),
        ("e/.wh..wh..opq", b""), ("e/q", b"5"), (".wh.gone", b""),
    )  # fmt: skip
    found = showing.compared(own, deleted, opaque, base)
    assert {(change.path, change.what.value) for change in found} == {
        ("d/x", "changed"), ("d/y", "deleted"), ("d/n", "added"), ("e/z", "deleted"),
        ("e/q", "added"),
    }  # fmt: skip
    unknown = showing.compared(own, deleted, opaque, None)
    assert {(change.path, change.what.value) for change in unknown} == {
        ("d/x", "set"), ("d/y", "deleted"), ("d/n", "set"), ("e/q", "set"), ("gone", "deleted"),
    }  # fmt: skip


def test_names_cannot_write_to_the_terminal() -> None:
    own, deleted, opaque = listed(("a\x1b[31m\n", b"1"), ("ü", b"1"))
    text = showing.lines(showing.compared(own, deleted, opaque, None))
    assert "\x1b" not in text
    assert text.count("\n") == 2
    assert "ü" in text


def changed(store: Store, name: str, base: str, *layers: bytes, replace: bool = False) -> None:
    """Add an image that was made from `base` by changes."""
    notes = saving.base_annotations(resolve(base))
    add(store, name, *layers, annotations=notes, replace=replace)


def test_a_base_that_is_changes_itself_is_told(store: Store) -> None:
    add(store, "a:1", b"base")
    changed(store, "b:1", "a:1", b"base", b"first")
    changed(store, "c:1", "b:1", b"base", b"first", b"second")
    changed(store, "d:1", "c:1", b"base", b"first", b"second", b"third")
    for name, lowest in (("b:1", ""), ("c:1", "a:1"), ("d:1", "a:1")):
        assert saving_changes.lowest(changes.of_image(name).base) == lowest
    store.remove(["a:1"])
    assert saving_changes.lowest(changes.of_image("c:1").base) == ""
    assert saving_changes.lowest(changes.of_image("d:1").base) == "b:1"


def test_images_that_name_each_other_as_their_base_are_no_endless_chain(store: Store) -> None:
    add(store, "a:1", b"base")
    changed(store, "b:1", "a:1", b"base")
    changed(store, "a:1", "b:1", b"base", replace=True)
    assert saving_changes.lowest(changes.base_of(resolve("a:1"))) == ""
