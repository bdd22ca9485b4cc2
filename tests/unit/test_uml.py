"""The UML engine's command lines, word for word, and what it says of a dead kernel."""

from __future__ import annotations

import signal

import pytest

from apppot.agent.spec import GuestLayer
from apppot.errors import MachineError
from apppot.machine.ended import advice, diagnosis
from apppot.machine.guest import disk_name
from apppot.machine.model import LayerFile, MachineSpec, Network, Share, UmlMode
from apppot.machine.network import passt_arguments
from apppot.machine.uml import (
    Descriptors,
    confine_arguments,
    guest_spec,
    kernel_arguments,
)

LAYERS = (LayerFile("/a"), LayerFile("/b", offset=4096))
SPEC = MachineSpec(hostname="node", layers=LAYERS, cpus=1, host_cpus=(3,), memory=256 << 20)
GIVEN = Descriptors(channel=3, initrd=4, run=5, layers=(6, 7))


def _with(**changes: object) -> MachineSpec:
    fields = {name: getattr(SPEC, name) for name in MachineSpec.__dataclass_fields__}
    return MachineSpec(**{**fields, **changes})


def test_kernel_arguments() -> None:
    found = kernel_arguments(SPEC, GIVEN)
    assert [word for word in found if not word.startswith(("lpj=", "thp_"))] == [
        "mem=262144K",
        "seccomp=on",
        "transparent_hugepage_shmem=within_size",
        "initrd=/proc/self/fd/4",
        "uml_dir=./",
        "con=none",
        "con0=null,fd:1",
        "hostpipe=3",
        "panic=-1",
        "apppot.channel=/dev/hostpipe",
        "ubd0rc=/proc/self/fd/6",
        "ubd1rc=/proc/self/fd/7",
        "hostfs_fd=0ro",
    ]


def test_kernel_arguments_hold_no_text_of_the_users() -> None:
    spec = _with(
        hostname="user-text",
        shares=(Share("/user-text", b"/user-text"), Share("/user-text", b"/x", True)),
        mode=UmlMode.PTRACE,
        cpus=4,
    )
    given = Descriptors(3, 4, 5, (6,), shares=(8, 9), scratch=10, network=11)
    found = kernel_arguments(spec, given)
    assert "user-text" not in " ".join(found)
    for word in ("hostfs_fd=8,9ro", "seccomp=off", "ncpus=4", "ubd1c=/proc/self/fd/10"):
        assert word in found
    assert "virtio_uml.device=fd=11:1" in found


def test_a_layer_that_is_written_to_is_the_root() -> None:
    spec = _with(layers=(LayerFile("/disk", type="ext4"),), write_layer=True)
    given = Descriptors(3, 4, 5, (6,))
    assert "ubd0c=/proc/self/fd/6" in kernel_arguments(spec, given)
    assert "--rw-fd 6" in " ".join(confine_arguments("confine", spec, given, 99))
    found = guest_spec(spec, given, ())
    assert found.layers == (GuestLayer("/dev/ubda", "ext4"),)
    assert found.layer_is_root


def test_names_of_many_disks() -> None:
    assert [disk_name("ubd", n) for n in (0, 25, 26, 51, 52)] == [
        "ubda",
        "ubdz",
        "ubdaa",
        "ubdaz",
        "ubdba",
    ]


def test_too_many_layers_are_refused() -> None:
    spec = _with(layers=tuple(LayerFile(f"/{n}") for n in range(200)))
    given = Descriptors(3, 4, 5, tuple(range(6, 206)))
    with pytest.raises(MachineError, match="command line too long"):
        kernel_arguments(spec, given)


def test_confine_arguments() -> None:
    spec = _with(host_cpus=(1, 3), shares=(Share("/rw", b"/rw"), Share("/ro", b"/ro", True)))
    given = Descriptors(3, 4, 5, (6,), shares=(8, 9), scratch=10)
    found = confine_arguments("confine", spec, given, 99)
    text = " ".join(found)
    assert found[0] == "confine"
    assert found[-1] == "--"
    for part in ("--parent 99", "--chdir-fd 5", "--cpus 1,3", "--landlock", "--no-aslr"):
        assert part in text
    for part in ("--rw-fd 5", "--ro-fd 4", "--ro-fd 6", "--rw-fd 8", "--ro-fd 9", "--rw-fd 10"):
        assert part in text
    assert "--rw-fd 6" not in text
    assert "--rw-fd 9" not in text


def test_only_a_disk_that_is_used_again_is_kept_safe_from_crashes() -> None:
    given = Descriptors(3, 4, 5, (6, 7), scratch=10)
    kept = guest_spec(_with(scratch_file="/disk"), given, ())
    assert (kept.scratch, kept.scratch_is_kept) == ("/dev/ubdc", True)
    assert not guest_spec(SPEC, given, ()).scratch_is_kept


def test_guest_spec() -> None:
    spec = _with(shares=(Share("/h", b"/job"),), network=Network.NONE)
    given = Descriptors(3, 4, 5, (6, 7), shares=(8,), scratch=9)
    found = guest_spec(spec, given, (False,))
    assert found.layers == (GuestLayer("/dev/ubda"), GuestLayer("/dev/ubdb", offset=4096))
    assert not found.layer_is_root
    assert found.scratch == "/dev/ubdc"
    assert found.network is None
    assert [(s.filesystem, s.target, s.options) for s in found.shares] == [("hostfs", b"/job", "8")]


def test_passt_maps_the_hosts_loopback_only_on_request() -> None:
    closed = passt_arguments("passt", 3, host_loopback=False)
    opened = passt_arguments("passt", 3, host_loopback=True)
    assert "--no-map-gw" in closed
    assert "--map-host-loopback" not in closed
    assert opened[opened.index("--map-host-loopback") + 1] == "10.0.2.2"
    for words in (closed, opened):
        assert words[words.index("--tcp-ports") + 1] == "none"
        assert words[words.index("--udp-ports") + 1] == "none"


@pytest.mark.parametrize(
    ("status", "console", "says", "advises"),
    [
        (1, "Kernel panic - not syncing: Out of memory: x", "panicked: Out of memory", "--memory"),
        (-9, "", "killed by signal 9 (SIGKILL)", "memory limit"),
        (-signal.SIGBUS, "", "SIGBUS", "ran out of memory"),
        (-40, "", "signal 40", "doctor"),
        (1, "first\n\nlast words\n\n", "it said last: last words", "doctor"),
        (0, "", "ended (status 0)", "doctor"),
    ],
)
def test_diagnosis(status: int, console: str, says: str, advises: str) -> None:
    assert says in diagnosis(status, console)
    assert advises in advice(status, console)
