"""Checkpoints without a machine: manifests, folders, processors, and what is refused."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import sys
import tempfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apppot.__main__ import main
from apppot.checkpoint import beginning, restoring, saving
from apppot.checkpoint import folder as folders
from apppot.checkpoint import manifest as manifests
from apppot.checkpoint.folder import Folder
from apppot.checkpoint.manifest import Blob, Disk, Folders
from apppot.errors import AppPotError, MachineError, UsageError
from apppot.machine import cpumodel, virtual
from apppot.machine.cpumodel import CpuModel, Processor
from apppot.machine.model import EngineName, Share
from apppot.request import Checkpoint, RunRequest
from tests.unit.checkpoints import HARDWARE, saved

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from apppot.checkpoint.manifest import Manifest


@given(held=st.binary(), pending=st.binary(), text=st.binary())
def test_manifests_come_back_as_they_were(held: bytes, pending: bytes, text: bytes) -> None:
    folders = Folders((Share("/here", b"/job"),), Disk("folders-1", 9, "5" * 64))
    manifest = saved(Blob("memory-1", 7), Disk("disk-1", 8, "6" * 64), held, pending, text, folders)
    assert manifests.parse(manifests.render(manifest), "there") == manifest


def _paths(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    found = [path]
    if isinstance(value, (dict, list)):
        for key, each in value.items() if isinstance(value, dict) else enumerate(value):
            found += _paths(each, (*path, key))
    return found


def test_every_damage_to_a_manifest_is_refused() -> None:
    text = manifests.render(saved(Blob("memory-1", 7)))
    for path in _paths(json.loads(text))[1:]:
        content = json.loads(text)
        inside = content
        for key in path[:-1]:
            inside = inside[key]
        inside[path[-1]] = [{"x": [None]}]
        with pytest.raises(MachineError, match=r"is damaged|of format"):
            manifests.parse(json.dumps(content).encode(), "there")
    for cut in range(0, len(text) - 2, 97):
        with pytest.raises(MachineError, match="damaged"):
            manifests.parse(text[:cut], "there")


def test_what_is_no_checkpoint_of_ours_is_refused() -> None:
    text = manifests.render(saved(Blob("memory-1", 7)))
    with pytest.raises(MachineError, match="uml can be saved"):
        manifests.parse(text.replace(b'"kvm"', b'"uml"'), "there")
    with pytest.raises(MachineError, match="no object"):
        manifests.parse(b"[]", "there")


def put(folder: Folder, memory: bytes, disk: int | None = None, *, final: bool = False) -> Manifest:
    kept = None
    with contextlib.ExitStack() as files:
        target, name = files.enter_context(folder.memory())
        os.write(target, memory)
        if disk is not None:
            kept = folder.keep_disk(files, disk, final=final).disk()
    manifest = saved(Blob(name, len(memory)), kept)
    folder.commit(manifest)
    return manifest


@pytest.mark.parametrize("final", [False, True])
def test_a_checkpoint_takes_the_place_of_the_last(tmp_path: Path, final: bool) -> None:
    with contextlib.ExitStack() as stack, open(tmp_path / "disk", "w+b") as disk:
        folder = Folder(str(tmp_path / "saved"), stack)
        assert not folder.used
        disk.truncate(64 << 20)
        os.pwrite(disk.fileno(), b"data", 32 << 20)
        first = put(folder, b"first", disk.fileno())
        assert manifests.read(folder.path) == first
        (tmp_path / "saved" / "memory-0123cdef").touch()  # by one that was killed
        (tmp_path / "saved" / "disk-usage.txt").touch()  # the user's own
        second = put(folder, b"second", disk.fileno(), final=final)
        assert manifests.read(folder.path) == second
        assert second.disk
        names = {"checkpoint.json", "disk-usage.txt", second.memory.name, second.disk.name}
        assert set(os.listdir(folder.path)) == names
        kept = tmp_path / "saved" / second.disk.name
        assert kept.stat().st_blocks < 1024
        assert kept.read_bytes()[32 << 20 :].startswith(b"data\0")
        assert kept.stat().st_nlink == (2 if final else 1)


def _half(folder: Folder) -> list[Callable[[], None]]:
    def write() -> None:
        with folder.memory() as (target, _):
            os.write(target, b"half")
            raise OSError("full")

    def copy() -> None:
        with contextlib.ExitStack() as files, tempfile.TemporaryFile() as disk:
            folder.keep_disk(files, disk.fileno(), final=False)
            raise OSError("full")

    return [write, copy]


def test_one_that_fails_leaves_the_last(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        folder = Folder(str(tmp_path), stack)
        first = put(folder, b"first")
        before = set(os.listdir(tmp_path))
        for step in _half(folder):
            with pytest.raises(OSError, match="full"):
                step()
        assert manifests.read(folder.path) == first
        assert set(os.listdir(tmp_path)) == before


def test_what_is_left_is_removed_where_nobody_else_can_write(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def without_locks(*_: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    left = tmp_path / "disk-01234567"
    with contextlib.ExitStack() as stack:
        manifest = put(Folder(str(tmp_path), stack), b"memory")
    left.touch()
    with monkeypatch.context() as patch, contextlib.ExitStack() as stack:
        patch.setattr(fcntl, "flock", without_locks)
        Folder(str(tmp_path), stack).sweep(manifest)
        assert left.exists()  # it may be what another run is writing
    with contextlib.ExitStack() as stack:
        Folder(str(tmp_path), stack).sweep(manifest)
    assert not left.exists()
    assert manifests.read(str(tmp_path)) == manifest


def test_a_folder_belongs_to_one_run(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        Folder(str(tmp_path), stack)
        with pytest.raises(UsageError, match="another run"):
            Folder(str(tmp_path), stack)
    with contextlib.ExitStack() as stack:
        Folder(str(tmp_path), stack)


def test_files_that_are_not_whole_are_refused(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        folder = Folder(str(tmp_path), stack)
        manifest = put(folder, b"memory")
        path = tmp_path / manifest.memory.name
        path.write_bytes(b"memor")
        with pytest.raises(MachineError, match="5 bytes, not 6"):
            manifests.read(folder.path)
        path.unlink()
        with pytest.raises(MachineError, match="damaged"):
            manifests.read(folder.path)
        text = manifests.render(manifest).replace(b'"memory-', b'"/etc/memory-')
        (tmp_path / "checkpoint.json").write_bytes(text)
        with pytest.raises(MachineError, match="names a file"):
            manifests.read(folder.path)


def test_levels_of_processors() -> None:
    v2 = frozenset(["cx16", "lahf_lm", "popcnt", "ssse3", "sse4_1", "sse4_2"])
    more = "xsave avx avx2 bmi1 bmi2 f16c fma abm movbe aes pclmulqdq rdrand fsgsbase rdtscp"
    v3 = v2 | frozenset(more.split())
    assert cpumodel.best(Processor("GenuineIntel", v3)) is CpuModel.V3
    assert cpumodel.best(Processor("GenuineIntel", v3 - {"avx2"})) is CpuModel.V2
    with pytest.raises(MachineError, match="popcnt"):
        cpumodel.best(Processor("GenuineIntel", v3 - {"popcnt"}))
    for vendor in ("", "GenuineIntel", "AuthenticAMD"):
        for model in CpuModel:
            assert cpumodel.qemu_model(model, vendor).endswith(",enforce")
    assert cpumodel.qemu_model(CpuModel.V3, "AuthenticAMD").startswith("EPYC,")
    assert "-x2apic" in cpumodel.qemu_model(CpuModel.V3, "")


def test_what_a_host_must_have(monkeypatch: pytest.MonkeyPatch) -> None:
    version = "8.2.0"
    all_flags = frozenset({*cpumodel._V2, *cpumodel._V3})
    host = Processor("GenuineIntel", all_flags)
    monkeypatch.setattr(restoring, "qemu_version", lambda: version)
    monkeypatch.setattr(cpumodel, "processor", lambda: host)
    restoring.check_host(HARDWARE)  # corrections of a version do not matter
    host = Processor("AuthenticAMD", all_flags)
    with pytest.raises(MachineError, match="GenuineIntel"):
        restoring.check_host(HARDWARE)
    host = Processor("GenuineIntel", all_flags - {"fma"})
    with pytest.raises(MachineError, match="fma"):
        restoring.check_host(HARDWARE)
    restoring.check_host(replace(HARDWARE, engine=EngineName.TCG))
    version = "7.2.22"
    with pytest.raises(MachineError, match="older"):
        restoring.check_host(replace(HARDWARE, engine=EngineName.TCG))


def test_memory_of_a_machine_is_found(tmp_path: Path) -> None:
    assert saving.resident(os.getpid(), 1 << 62) == 0
    assert saving.resident(2**22 + 1, 1 << 20) == 0


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ((), "shared"),
        (("--no-job-dir", "--bind", "/usr"), "shared folder"),
        (("--no-job-dir", "--engine", "uml"), "uml"),
        (("--no-job-dir", "--uml-mode", "seccomp"), "uml"),
        (("--no-job-dir", "--save", "x"), "save"),
        (("--no-job-dir", "--checkpoint-on", "KILL"), "KILL"),
    ],
)
def test_what_cannot_be_saved_is_refused(
    words: tuple[str, ...], reason: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", "--checkpoint-dir", str(tmp_path / "d"), *words, "no:image"]) == 125
    said = capsys.readouterr().err
    assert "Traceback" not in said
    if "no image" not in said:  # which is looked up first where the request is made
        assert reason in said


def test_a_run_that_could_not_be_packed_does_not_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"
    monkeypatch.setitem(sys.modules, module, None)
    manifest = saved(Blob("0" * 64, 1))
    with contextlib.ExitStack() as stack, pytest.raises(ModuleNotFoundError, match="zstd"):
        saving.Saver(
            Folder(str(tmp_path / "saved"), stack),
            manifest.image,
            HARDWARE,
            manifest.command,
            manifest.habits,
        )


def test_no_checkpoint_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file", tmp_path / "missing"):
        assert main(["restore", str(path)]) == 125
        said = capsys.readouterr().err
        assert f"{path} holds no checkpoint" in said
        assert "apppot run --checkpoint-dir" in said
    assert not (tmp_path / "missing").exists()


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("--checkpoint-on", "USR1"), "--checkpoint-on is for machines that can be saved"),
        (("--cpu-model", "x86-64-v2"), "--cpu-model is for machines that can be saved"),
        (("--checkpoint-dir", ""), "no folder's name"),
    ],
)
def test_options_without_a_folder_are_refused(
    words: tuple[str, ...], reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *words, "no:image"]) == 125
    assert reason in capsys.readouterr().err


@pytest.mark.parametrize(
    ("named", "works", "told"),
    [
        (None, False, "tcg: --checkpoint-dir needs kvm or tcg, and kvm does not work here (why)"),
        (EngineName.AUTO, False, "tcg: --checkpoint-dir needs"),
        (None, True, "kvm: why"),
        (EngineName.TCG, True, "tcg: it was asked for"),
    ],
)
def test_the_reason_for_the_engine_is_told(
    monkeypatch: pytest.MonkeyPatch, named: EngineName | None, works: bool, told: str
) -> None:
    monkeypatch.delenv("APPPOT_ENGINE", raising=False)
    monkeypatch.setattr(virtual, "kvm", lambda **_: virtual.Answer(works, "why"))
    request = RunRequest("no:image", job_dir=None, engine=named, checkpoint=Checkpoint("there"))
    assert str(beginning.engine(request)).startswith(f"engine {told}")


def test_an_engine_that_there_is_not_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APPPOT_ENGINE", "qemu")
    request = RunRequest("no:image", job_dir=None, checkpoint=Checkpoint("there"))
    with pytest.raises(UsageError, match="no engine 'qemu'"):
        beginning.engine(request)


def test_copies_are_sparse_and_whole(tmp_path: Path) -> None:
    with open(tmp_path / "a", "w+b") as source, open(tmp_path / "b", "w+b") as target:
        source.truncate((8 << 20) + 5)
        for at in (0, 4 << 20, (8 << 20) + 1):
            os.pwrite(source.fileno(), b"here", at)
        folders.copy(source.fileno(), target.fileno())
        assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
        assert (tmp_path / "b").stat().st_blocks < 4096


def test_errors_are_apppots(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.json").write_text("{}")
    with pytest.raises(AppPotError):
        manifests.read(str(tmp_path))
