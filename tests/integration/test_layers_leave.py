"""Images of many layers leave through one machine, with the bytes that one for each would give."""

from __future__ import annotations

import os
import tarfile
import tempfile
from typing import TYPE_CHECKING

import pytest

import apppot.run
from apppot import worker
from apppot.control import ControlClient
from apppot.errors import AppPotError, MachineError
from apppot.image import changes, erofs, loading, pressing, saving, store
from apppot.machine import rundir
from tests.unit.changes_archives import archive

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.timeout(300)
COUNT = 12
try:
    rundir.machines()
    from apppot import kit

    kit.find()
except AppPotError as error:
    pytest.skip(f"needs a kit: {error}", allow_module_level=True)


@pytest.fixture
def starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make a store with an image of several layers; give a list that grows with each machine."""
    monkeypatch.setenv("APPPOT_STORE", str(tmp_path / "store"))
    base = archive(("etc", None), ("etc/base", b"base" * 1000))
    with store.stores()[0].writer() as adding:
        layer = erofs.layer(adding, base)
        rootfs = {"type": "layers", "diff_ids": [layer.content]}
        adding.image("many:0", [layer], {"architecture": "amd64", "os": "linux", "rootfs": rootfs})
    for n in range(1, COUNT):
        changed = [("etc", None), (f"etc/{n}", os.urandom(300_000)), ("etc/base", b"%d" % n)]
        with archive(*changed, *([(f"etc/.wh.{n - 1}", b"")] if n > 1 else [])) as file:
            below = store.resolve(f"many:{n - 1}")
            saving.store_changes(f"many:{n}", below, file, history="test")
    begun: list[str] = []
    run = apppot.run.run

    def counted(*words: object, **more: object) -> object:
        begun.append("machine")
        return run(*words, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(worker, "run", counted)
    return begun


def test_one_machine_archives_all_layers(starts: list[str], tmp_path: Path) -> None:
    name = f"many:{COUNT - 1}"
    loading.save([name], str(tmp_path / "all.tar"))
    assert len(starts) == 1
    loading.save([name, "many:3"], str(tmp_path / "two.tar"), docker=True)
    assert len(starts) == 3
    loading.load(str(tmp_path / "all.tar"), name="back:1")
    with tarfile.open(tmp_path / "all.tar") as whole:
        assert len([each for each in whole if each.name.startswith("blobs/")]) == COUNT + 2
    # What came back is what left, layer by layer.
    assert saving.contents(store.resolve("back:1").layers) == (
        saving.contents(store.resolve(name).layers)
    )


def test_changes_in_several_layers_need_one_machine(starts: list[str], tmp_path: Path) -> None:
    subject = changes.of_image(f"many:{COUNT - 1}", "many:0")
    made = changes.save_image(str(tmp_path / "x"), subject, (), pressing.FASTEST)
    assert made.size > 200_000
    assert len(starts) == 1


def test_the_same_bytes_as_from_machines_of_their_own(starts: list[str]) -> None:
    layers = store.resolve(f"many:{COUNT - 1}").layers
    machine = worker.Archivist(layers)
    with tempfile.TemporaryFile() as one, tempfile.TemporaryFile() as other:
        for number in (COUNT - 1, 0, 3, 3):
            for file in (one, other):
                file.truncate(0)
                file.seek(0)
            machine.layer(number, one.fileno())
            worker.archive(layers[: number + 1], ("layer", str(number)), other.fileno())
            one.seek(0)
            other.seek(0)
            assert one.read() == other.read() != b""
    machine.close()
    machine.close()
    assert len(starts) == 1 + 4
    assert rundir.machines() == []


NEW = ("new", None)
NEEDLESS = [  # what other programs' layers say, though it changes nothing
    [("etc", None)],
    [("etc", None), ("file", b"")],
    [(".wh.nowhere", b""), ("etc/.wh.nowhere", b"")],
    [NEW, ("new/.wh..wh..opq", b""), ("new/file", b"x")],  # each new folder, in Docker's
    [NEW, ("new/.wh.nowhere", b"")],
    [("new/below/.wh.nowhere", b"")],
    [("etc/base", None), ("etc/base/.wh.nowhere", b"")],
    [("etc", None), ("etc/.wh..wh..opq", b""), ("etc/.wh.base", b"")],
    [(".wh.etc", b""), ("etc", None), ("etc/file", b"")],
]


@pytest.mark.parametrize("said", NEEDLESS)
def test_a_layer_leaves_with_all_that_it_says(
    said: list[tuple[str, bytes | None]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APPPOT_STORE", str(tmp_path / "store"))
    archives = [archive(("etc", None), ("etc/base", b"x")), archive(*said), archive(*said)]
    with store.stores()[0].writer() as adding:
        layers = [erofs.layer(adding, each) for each in archives]
        rootfs = {"type": "layers", "diff_ids": [each.content for each in layers]}
        config = {"architecture": "amd64", "os": "linux", "rootfs": rootfs}
        adding.image("said:0", layers, config)
    loading.save(["said:0"], str(tmp_path / "said.tar"))
    loading.load(str(tmp_path / "said.tar"), name="back:1")
    found = store.resolve("back:1").layers
    assert [each.content for each in found] == [each.content for each in layers]


def again_and_again(machine: worker.Archivist, target: int) -> None:
    for _ in range(1000):
        machine.layer(1, target)


def test_what_fails_is_said_and_nothing_waits(starts: list[str]) -> None:
    machine = worker.Archivist(store.resolve("many:3").layers)
    with tempfile.TemporaryFile() as file:
        with pytest.raises(MachineError, match="layer 77: No such file"):
            machine.layer(77, file.fileno())
        machine.layer(1, file.fileno())  # it still works
        read, write = os.pipe()
        os.close(read)
        with pytest.raises(MachineError, match="Broken pipe"):
            machine.layer(2, write)
        os.close(write)
        full = pytest.raises(MachineError, match="No space left")
        with open("/dev/full", "wb") as target, full:
            machine.layer(2, target.fileno())
        machine.layer(2, file.fileno())
        (running,) = rundir.machines()
        with ControlClient(running.path) as client:
            client.send({"op": "stop", "grace": 0})
            client.receive()
        for _ in range(2):
            with pytest.raises(MachineError):
                again_and_again(machine, file.fileno())
    machine.close()
    assert rundir.machines() == []
    assert len(starts) == 1
