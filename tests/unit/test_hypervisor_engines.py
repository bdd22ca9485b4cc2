"""The engines xen and virtualbox, without a hypervisor: what they would ask for."""

from __future__ import annotations

import ast
import os
import uuid
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from apppot import process
from apppot.errors import MachineError, UsageError
from apppot.image.bootdisk import gpt
from apppot.image.parttable import read_table
from apppot.machine import choice, virtualbox, xen
from apppot.machine.model import EngineName, LayerFile, MachineSpec, Network
from apppot.machine.rundir import RunDir

if TYPE_CHECKING:
    from pathlib import Path

SPEC = MachineSpec(
    hostname="h",
    layers=(LayerFile("/store/a"), LayerFile("/store/b")),
    cpus=3,
    host_cpus=(0, 1),
    memory=700 << 20,
    network=Network.NONE,
    kernel_arguments=("quiet",),
)


def settings(text: str) -> dict[str, Any]:
    """Read xl's configuration: its strings and lists are written as Python's are."""
    pairs = (line.split(" = ", 1) for line in text.splitlines())
    return {name: ast.literal_eval(value) for name, value in pairs}


def test_a_domain_of_xens() -> None:
    files = xen.Files("/kit/k", "/kit/i", ("/store/a", "/store/b"), scratch="/tmp/s")
    found = settings(xen.domain("apppot-1", xen.Kind.PV, SPEC, files))
    assert (found["name"], found["type"]) == ("apppot-1", "pv")
    assert (found["memory"], found["vcpus"]) == (700, 3)
    assert found["extra"].split()[-2:] == ["apppot.channel=/dev/hvc0", "quiet"]
    assert [disk.split(", ")[1:3] for disk in found["disk"]] == [
        ["vdev=xvda", "access=ro"],
        ["vdev=xvdb", "access=ro"],
        ["vdev=xvdc", "access=rw"],
    ]
    assert {found[f"on_{event}"] for event in ("poweroff", "reboot", "crash")} == {"destroy"}


def test_a_raw_disk_that_is_written_to() -> None:
    spec = MachineSpec("h", (LayerFile("/d"),), 1, (0,), 1 << 28, write_layer=True)
    found = settings(xen.domain("a", xen.Kind.PVH, spec, xen.Files("/k", "/i", ("/d",))))
    assert "access=rw" in found["disk"][0]


def test_the_type_of_xens_machines(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    xl = tmp_path / "xl"
    monkeypatch.setattr(xen, "program", lambda: str(xl))
    for capabilities, kind in (("pv hvm hap", xen.Kind.PVH), ("pv", xen.Kind.PV)):
        xl.write_text(f"#!/bin/sh\necho '{capabilities}'\n")
        xl.chmod(0o755)
        assert xen.kind() is kind
    monkeypatch.setenv("APPPOT_XEN_TYPE", "pvh")
    assert xen.kind() is xen.Kind.PVH
    monkeypatch.setenv("APPPOT_XEN_TYPE", "hvm")
    with pytest.raises(UsageError, match="hvm"):
        xen.kind()


@pytest.mark.parametrize("name", [EngineName.XEN, EngineName.VIRTUALBOX])
def test_where_there_is_no_hypervisor(
    name: EngineName, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(xen, "PRIVILEGED", str(tmp_path / "none"))
    monkeypatch.setattr(virtualbox, "DRIVER", str(tmp_path / "none"))
    monkeypatch.setenv("APPPOT_RUNTIME_DIR", str(tmp_path / "runtime"))
    chosen = choice.choose(name)
    assert chosen.stages
    with (
        ExitStack() as stack,
        RunDir.make() as run,
        pytest.raises(MachineError, match=r"does not work here: .") as error,
    ):
        chosen.engine().start(SPEC, run, stack)
    assert "doctor" in error.value.hint


@pytest.mark.parametrize(("content", "what"), [("", "a guest"), ("control_d\n", "")])
def test_only_the_privileged_domain_will_do(
    content: str, what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "capabilities"
    path.write_text(content)
    monkeypatch.setattr(xen, "PRIVILEGED", str(path))
    monkeypatch.setattr(process, "find_program", lambda name, **_: f"/sbin/{name}")
    assert ("a guest" in xen.problem()) == bool(what)


def test_virtualboxs_disk_has_a_partition_for_each_layer(tmp_path: Path) -> None:
    code, parts = b"\xea" * 440, [(2048, 24), (2072, 16384)]
    begin, end = virtualbox.tables(code, parts, 2072 + 16384 + gpt.TABLE_SECTORS)
    path = tmp_path / "disk"
    with path.open("wb") as disk:
        disk.write(begin)
        disk.truncate((2072 + 16384) * 512)
        disk.seek(0, os.SEEK_END)
        disk.write(end)
    assert begin.startswith(code)
    with path.open("rb") as disk:
        found = read_table(disk, path.stat().st_size, "disk")
    assert found
    assert [(each.offset // 512, each.size // 512) for each in found.partitions] == parts


def test_virtualboxs_description_of_a_joined_disk() -> None:
    extents = [virtualbox.Extent("head.raw", 2048), virtualbox.Extent("part0", 24, writable=True)]
    lines = virtualbox.description(extents, str(uuid.UUID(int=5))).splitlines()
    assert lines[0] == "# Disk DescriptorFile"
    assert 'RDONLY 2048 FLAT "head.raw" 0' in lines
    assert 'RW 24 FLAT "part0" 0' in lines


def test_a_layer_that_is_no_whole_sectors_cannot_be_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    layer = tmp_path / "layer"
    layer.write_bytes(b"x" * 513)
    monkeypatch.setenv("APPPOT_RUNTIME_DIR", str(tmp_path / "runtime"))
    monkeypatch.setenv("APPPOT_TMPDIR", str(tmp_path))
    monkeypatch.setattr(virtualbox, "boot_area", lambda *_: (b"", b"\0" * 512))
    spec = MachineSpec("h", (LayerFile(str(layer)),), 1, (0,), 1 << 28)
    with RunDir.make() as run, pytest.raises(MachineError, match="whole sector"):
        virtualbox.join(spec, None, run, [])  # type: ignore[arg-type]
