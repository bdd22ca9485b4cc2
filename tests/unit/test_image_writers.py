"""Writers that fail, are killed, or are many leave a sound store."""

from __future__ import annotations

import errno
import gzip
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apppot import process
from apppot.errors import ImageError
from apppot.image import cleaning, fsck, importing, leaving, listing, loading, model, writer
from apppot.image.store import Store, resolve
from tests.unit.stores import add, blobs, store

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["store"]  # a fixture


@pytest.mark.parametrize(
    ("number", "hint"),
    [(errno.ENOSPC, "free some space"), (errno.EDQUOT, "quota"), (errno.EROFS, "APPPOT_STORE")],
)
@pytest.mark.parametrize("function", ["rename", "fsync", "fchmod"])
@pytest.mark.parametrize("large", [0, writer.LARGE])
def test_failing_writes_leave_the_store_as_it_was(
    number: int,
    hint: str,
    function: str,
    large: int,
    store: Store,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    add(store, "a:1", b"a")
    index, there = Path(store.path, "index.json").read_bytes(), blobs(store)

    def fail(*_: Any) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(f"apppot.image.writer.os.{function}", fail)
        patch.setattr(writer, "LARGE", large)
        with pytest.raises(ImageError) as error:
            add(store, "b:1", b"b")
    assert hint in error.value.hint
    assert Path(store.path, "index.json").read_bytes() == index
    store.clean()
    assert blobs(store) == there


@pytest.mark.parametrize("large", [0, writer.LARGE])
def test_a_layer_that_does_not_get_to_the_disk_is_no_layer(
    large: int, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(store, "a:1", b"a")
    there, fsync, calls = blobs(store), os.fsync, []

    def fail_once(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) == 1:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        fsync(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr("apppot.image.writer.os.fsync", fail_once)
        patch.setattr(writer, "LARGE", large)
        with pytest.raises(ImageError, match=os.strerror(errno.EIO)):
            add(store, "b:1", b"b")
    store.clean()
    assert blobs(store) == there


def test_an_unwritable_store_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "file"
    file.write_text("x")
    store = Store(str(file / "store"))
    with pytest.raises(ImageError, match="cannot write to the store") as error:
        add(store, "a:1", b"a")
    assert "APPPOT_STORE" in error.value.hint


def test_a_read_only_store_is_read_and_not_written(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))  # root's is not for its child
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
    assert Store(store.path + "-none").clean() == cleaning.Cleaned()


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


def _importing() -> None:
    importing.import_(os.path.dirname(__file__), "x:1", importing.Settings())


def _leaving() -> None:
    with leaving.room():
        pass


def _loading() -> None:
    with tempfile.NamedTemporaryFile(suffix=".tar.gz") as file:
        file.write(gzip.compress(b"\0" * 10240))
        file.flush()
        loading.load(file.name)


@pytest.mark.parametrize("work", [_importing, _leaving, _loading])
def test_files_that_need_a_name_for_a_moment_are_known(
    work: Callable[[], None], store: Store
) -> None:
    """Not all file systems can make files without one, and a process may be killed in between."""
    add(store, "a:1", b"a")
    pid = os.fork()
    if pid == 0:
        tempfile._O_TMPFILE_WORKS = False  # type: ignore[attr-defined]
        os.unlink = lambda *_, **__: os._exit(9)
        try:
            work()
        finally:
            os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9
    assert len(fsck.check(store).notes) == 1
    assert store.clean().temporaries == 1
    assert fsck.check(store).notes == ()
