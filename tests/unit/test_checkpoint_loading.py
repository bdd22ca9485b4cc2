"""What a checkpoint holds is loaded whole, or its damage is told; and a user can end it soon."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from apppot import process
from apppot.checkpoint import loading
from apppot.checkpoint.feeding import Feed
from apppot.checkpoint.folder import Folder
from apppot.checkpoint.loading import Loading
from apppot.checkpoint.manifest import Blob, Disk, Folders
from apppot.checkpoint.sums import Digest
from apppot.errors import AppPotError, MachineError
from apppot.image import compressed
from apppot.machine.model import MachineSpec, Share
from apppot.machine.monitor import Monitor
from tests.unit.checkpoints import saved

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from apppot.checkpoint.manifest import Manifest

NOISE = os.urandom(3 << 20)
SPEC = MachineSpec(hostname="x", layers=(), cpus=1, host_cpus=(0,), memory=1 << 29)


def fed(path: Path) -> tuple[bytes, str]:
    with contextlib.ExitStack() as stack:
        feed = Feed(os.open(path, os.O_RDONLY), stack)
        with open(os.dup(feed.reader), "rb") as file:
            given = file.read()
        assert feed.ended.wait(10)
        return given, feed.trouble


def test_memory_is_given_whole_or_its_damage_is_told(tmp_path: Path) -> None:
    zstd = compressed.zstd()
    memory = os.urandom(3 << 20) + bytes(5 << 20)
    options = {zstd.CompressionParameter.checksum_flag: 1}
    packed = zstd.compress(memory, options=options)
    path = tmp_path / "memory"
    path.write_bytes(packed)
    assert fed(path) == (memory, "")
    path.write_bytes(packed[:-1])
    assert fed(path)[1] == "it ends too early"
    for damaged in (packed[:-1] + bytes([packed[-1] ^ 1]), b"none of zstd's", b""):
        path.write_bytes(damaged)
        given, trouble = fed(path)
        assert given, "QEMU 7.2 waits for a first byte for ever"
        assert trouble


def test_qemu_that_has_all_of_the_memory_is_not_waited_for_without_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def answer(*_: object) -> dict[str, str]:
        return {"status": "inmigrate"}

    monkeypatch.setattr(Monitor, "_ask", answer)
    monkeypatch.setattr("apppot.machine.monitor.PATIENCE", 0.05)
    given = threading.Event()
    given.set()
    ours, other = socket.socketpair()
    with (
        ours,
        other,
        Monitor(ours.fileno()) as monitor,
        pytest.raises(MachineError, match="did not answer"),
    ):
        monitor.wait_until_loaded(given, lambda: None)


def test_a_disk_that_cannot_be_copied_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setenv("APPPOT_TMPDIR", str(tmp_path))
    monkeypatch.setattr(loading, "copy", full)
    (tmp_path / "disk-1").write_bytes(b"disk")
    manifest = saved(Blob("memory-1", 7), Disk("disk-1", 4, "0" * 64))
    with contextlib.ExitStack() as stack:
        folder = Folder(str(tmp_path), stack)
        with pytest.raises(MachineError, match=f"copied to {tmp_path}: No space"):
            loading.Loading(folder, manifest, None, stack)


class Machine:
    """A machine that loads all that it is given; its engine and its monitor, too."""

    loaded = b""
    runs = False

    def start(self, spec: MachineSpec, *_: object) -> Any:
        assert spec.saving
        assert spec.saving.memory
        reader = os.dup(spec.saving.memory)
        self._reading = threading.Thread(target=self._load, args=(reader,))
        self._reading.start()
        return self

    def _load(self, reader: int) -> None:
        with open(reader, "rb") as file:
            self.loaded = file.read()

    def wait_until_loaded(self, *_: object) -> None:
        self._reading.join()

    def go_on(self) -> None:
        self.runs = True

    def console_tail(self) -> str:
        return ""


def sum_of(path: Path) -> str:
    with contextlib.ExitStack() as stack, open(path, "rb") as file:
        return Digest(file.fileno(), stack).result()


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Manifest:
    """Give a checkpoint of three files, in `tmp_path`."""
    monkeypatch.setenv("APPPOT_TMPDIR", str(tmp_path))
    options = {compressed.zstd().CompressionParameter.checksum_flag: 1}
    packed = compressed.zstd().compress(NOISE, options=options)
    (tmp_path / "memory-1").write_bytes(packed)
    (tmp_path / "folders-1").write_bytes(NOISE)
    with open(tmp_path / "disk-1", "wb") as file:
        file.truncate(1 << 30)
        os.pwrite(file.fileno(), NOISE, 1 << 29)
    disk = Disk("disk-1", 1 << 30, sum_of(tmp_path / "disk-1"))
    layer = Disk("folders-1", len(NOISE), sum_of(tmp_path / "folders-1"))
    folders = Folders((Share("/here", b"/job"),), layer)
    return saved(Blob("memory-1", len(packed)), disk, folders=folders)


def load(folder: Path, manifest: Manifest, machine: Any) -> None:
    with contextlib.ExitStack() as stack, open(folder / "folders-1", "rb") as layer:
        loading = Loading(Folder(str(folder), stack), manifest, layer.fileno(), stack)
        loading.finish(loading.start(machine, SPEC, machine, stack), machine)


def flip(path: Path, at: int) -> None:
    with open(path, "r+b") as file:
        was = os.pread(file.fileno(), 1, at)[0]
        os.pwrite(file.fileno(), bytes([was ^ 1]), at)


def test_what_is_whole_runs(tmp_path: Path, checkpoint: Manifest) -> None:
    machine = Machine()
    load(tmp_path, checkpoint, machine)
    assert machine.loaded == NOISE
    assert machine.runs


@pytest.mark.parametrize(
    ("name", "at"),
    [
        ("memory-1", len(NOISE) // 2),  # noise is packed as it is: only its checksum tells
        ("disk-1", 5),  # in a hole
        ("disk-1", (1 << 29) + len(NOISE) // 2),
        ("disk-1", (1 << 30) - 1),
        ("folders-1", 0),
    ],
)
def test_one_damaged_bit_is_found_and_the_file_named(
    tmp_path: Path, checkpoint: Manifest, name: str, at: int
) -> None:
    flip(tmp_path / name, at)
    machine = Machine()
    with pytest.raises(MachineError, match=f"{tmp_path} is damaged: {name}: "):
        load(tmp_path, checkpoint, machine)
    assert not machine.runs


class Sated(Machine):
    """A machine that has all that it needs before the end, and `closes` the pipe."""

    def __init__(self, *, closes: bool) -> None:
        self._closes = closes

    def _load(self, reader: int) -> None:
        self.loaded, self.reader = os.read(reader, 1 << 16), reader
        if self._closes:
            os.close(reader)


def test_memory_that_is_not_read_to_its_end_is_checked_to_its_end(
    tmp_path: Path, checkpoint: Manifest
) -> None:
    machine = Sated(closes=True)
    load(tmp_path, checkpoint, machine)
    assert machine.runs
    flip(tmp_path / "memory-1", len(NOISE) // 2)
    machine = Sated(closes=True)
    with pytest.raises(MachineError, match=f"{tmp_path} is damaged: memory-1: "):
        load(tmp_path, checkpoint, machine)
    assert not machine.runs


def test_memory_that_cannot_be_checked_is_not_believed(
    tmp_path: Path, checkpoint: Manifest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loading, "_PATIENCE", 0.05)
    machine = Sated(closes=False)
    with pytest.raises(MachineError, match="is damaged: memory-1: there is more in it"):
        load(tmp_path, checkpoint, machine)
    os.close(machine.reader)
    assert not machine.runs


@pytest.fixture
def terminated() -> Iterator[None]:
    """Let a TERM wait, as one does while signals are held."""
    with process.signals_held():
        signal.raise_signal(signal.SIGTERM)
        yield
        signal.sigtimedwait([signal.SIGTERM], 0)


@pytest.mark.usefixtures("terminated")
def test_a_signal_ends_the_copying_of_a_disk(tmp_path: Path, checkpoint: Manifest) -> None:
    with pytest.raises(AppPotError, match="ended by SIGTERM") as caught:
        load(tmp_path, checkpoint, Machine())
    assert caught.value.status == 128 + signal.SIGTERM


@pytest.mark.usefixtures("terminated")
def test_a_signal_ends_the_waiting_for_qemu() -> None:
    """QEMU says nothing while it reads what it goes on with; here it is stuck."""
    ours, other = socket.socketpair()
    began = time.monotonic()
    with (
        ours,
        other,
        pytest.raises(AppPotError, match="ended by SIGTERM"),
        Monitor(ours.fileno()) as monitor,
    ):
        monitor.wait_until_loaded(threading.Event(), loading._look)
    assert time.monotonic() - began < 1
