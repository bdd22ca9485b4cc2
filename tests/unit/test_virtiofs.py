"""Shared folders of QEMU's machines are served by virtiofsd where one is installed that fits."""

from __future__ import annotations

import os
import resource
import socket
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from apppot import process
from apppot.machine import folders, virtiofs
from apppot.machine.folders import Folder
from apppot.machine.model import LayerFile, MachineSpec, Share
from apppot.machine.qemu import (
    Accelerator,
    Descriptors,
    confine_arguments,
    guest_spec,
    qemu_arguments,
)

if TYPE_CHECKING:
    from pathlib import Path

SHARES = (Share("/user-text", b"/job"), Share("/user-text/x", b"/x", True))
SPEC = MachineSpec(
    hostname="node",
    layers=(LayerFile("/a"),),
    cpus=1,
    host_cpus=(1,),
    memory=256 << 20,
    shares=SHARES,
)
GIVEN = Descriptors(
    channel=3,
    console=4,
    kernel=5,
    initrd=6,
    run=7,
    layers=(8,),
    shares=(Folder(10, server=20), Folder(12, 11, b"x", server=21)),
)


def _program(folder: Path, text: str) -> str:
    path = folder / virtiofs.PROGRAM
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def only_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(process, "CLEAN_PATH", str(tmp_path))
    monkeypatch.setenv("APPPOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(virtiofs, "_FOLDERS", ())
    limits = (1024, virtiofs.FEWEST_DESCRIPTORS)
    monkeypatch.setattr(resource, "getrlimit", lambda _which: limits)
    return tmp_path


def test_one_that_fits_is_asked_once(only_here: Path) -> None:
    asked = only_here / "asked"
    path = _program(only_here, f"echo >>{asked}; echo {' '.join(virtiofs._NEEDED)}")
    assert [virtiofs.program(translated=False), virtiofs.program(translated=False)] == [path, path]
    assert asked.read_text() == "\n"


def test_where_instructions_are_translated_there_is_none(
    only_here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _program(only_here, f"echo {' '.join(virtiofs._NEEDED)}")
    assert virtiofs.program(translated=True) is None
    monkeypatch.setattr(virtiofs, "EVEN_TRANSLATED", True)
    assert virtiofs.program(translated=True) == path


def test_one_that_is_too_old_is_not_taken(only_here: Path) -> None:
    _program(only_here, "echo --fd --readonly; exit 1")
    assert virtiofs.program(translated=False) is None


def test_one_that_may_open_few_files_is_not_taken(
    only_here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _program(only_here, f"echo {' '.join(virtiofs._NEEDED)}")
    assert virtiofs.program(translated=False) == path
    monkeypatch.setattr(resource, "getrlimit", lambda _which: (1024, 20000))
    assert virtiofs.program(translated=False) is None


@pytest.mark.parametrize(("name", "served"), [("/größe", True), ("/\udcff", False)])
def test_names_have_to_be_text(name: str, *, served: bool) -> None:
    assert virtiofs.serves(name) == served


def test_without_one_there_is_none(only_here: Path) -> None:
    assert virtiofs.program(translated=False) is None
    path = _program(only_here, f"echo {' '.join(virtiofs._NEEDED)}")
    assert virtiofs.program(translated=False) == path


def test_root_makes_files_in_any_name_and_others_in_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    words = virtiofs.arguments("/x", 3, 4, read_only=False)
    assert words[:3] == ["/x", "--fd=3", "--shared-dir=/proc/self/fd/4"]
    assert not [word for word in words if "translate" in word or word == "--readonly"]
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    monkeypatch.setattr(os, "getegid", lambda: 43)
    words = virtiofs.arguments("/x", 3, 4, read_only=True)
    assert "--readonly" in words
    assert "--translate-uid=squash-guest:0:4242:4294967295" in words
    assert "--translate-gid=squash-guest:0:43:4294967295" in words


def test_the_machine_shares_its_memory_and_the_servers_have_the_folders() -> None:
    words = qemu_arguments("/bin/qemu", Accelerator.KVM, SPEC, GIVEN)
    pairs = list(pairwise(words))
    assert ("-object", "memory-backend-memfd,id=memory,size=262144k,share=on") in pairs
    (machine,) = [value for word, value in pairs if word == "-machine"]
    assert "memory-backend=memory" in machine.split(",")
    assert ("-chardev", "socket,id=share1,fd=21") in pairs
    devices = [value for word, value in pairs if word == "-device" and "fs-pci" in value]
    assert [device.partition(",addr=")[0] for device in devices] == [
        "vhost-user-fs-pci,chardev=share0,tag=share0,queue-size=1024",
        "vhost-user-fs-pci,chardev=share1,tag=share1,queue-size=1024",
    ]
    assert "-fsdev" not in words
    confined = confine_arguments("/c", "/bin/qemu", Accelerator.KVM, SPEC, GIVEN)
    assert not {"10", "11", "12"} & set(confined)
    first, second = guest_spec(SPEC, GIVEN).shares
    assert (first.filesystem, first.source, first.options) == ("virtiofs", "share0", "")
    assert (second.read_only, second.single_file, second.part) == (True, True, b"x")


def test_a_server_may_do_no_more_than_serve_what_is_shared() -> None:
    whole, file = SHARES
    assert folders.rights(whole, Folder(4)) == ["--rw-fd", "4"]
    assert folders.rights(file, Folder(4, 5, b"x")) == ["--list-fd", "4", "--ro-fd", "5"]


def test_nobody_else_can_connect_to_a_server(tmp_path: Path) -> None:
    said = tmp_path / "said"
    with open(said, "wb") as file:
        pid, connection = virtiofs.start(
            ["/bin/sh", "-c", "ls -l /proc/self/fd/3 >&1"],
            str(tmp_path),
            {1: file.fileno(), 2: file.fileno()},
        )
    assert os.waitpid(pid, 0)[1] == 0
    assert "socket:" in said.read_text()
    assert os.listdir(tmp_path) == ["said"]
    with socket.socket(fileno=connection) as ours:
        assert ours.getpeername().endswith("/virtiofs")
