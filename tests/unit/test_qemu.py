"""The QEMU engine's command lines, word for word."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from apppot import process
from apppot.agent.spec import GuestLayer
from apppot.errors import MachineError
from apppot.lean import replace
from apppot.machine import cpumodel, virtual
from apppot.machine.folders import Folder
from apppot.machine.model import LayerFile, MachineSpec, Network, Saving, Share
from apppot.machine.qemu import (
    MOST_DEVICES,
    Accelerator,
    Descriptors,
    confine_arguments,
    guest_spec,
    kernel_arguments,
    layout,
    qemu_arguments,
)

if TYPE_CHECKING:
    from pathlib import Path

LAYERS = (LayerFile("/a"), LayerFile("/b", offset=4096))
SPEC = MachineSpec(hostname="node", layers=LAYERS, cpus=2, host_cpus=(1, 3), memory=256 << 20)
GIVEN = Descriptors(channel=3, console=4, kernel=5, initrd=6, run=7, layers=(8, 9))
FULL = Descriptors(
    channel=3,
    console=4,
    kernel=5,
    initrd=6,
    run=7,
    layers=(8, 9),
    shares=(Folder(10), Folder(12, 11, b"user-text")),
    scratch=13,
    network=14,
)


def _with(**changes: object) -> MachineSpec:
    fields = {name: getattr(SPEC, name) for name in MachineSpec.__dataclass_fields__}
    return MachineSpec(**{**fields, **changes})


def _full(**changes: object) -> MachineSpec:
    shares = (Share("/user-text", b"/user-text"), Share("/user-text/x", b"/x", True))
    return _with(hostname="user-text", shares=shares, scratch=1 << 30, **changes)


def _values(words: list[str], option: str) -> list[str]:
    return [value for word, value in pairwise(words) if word == option]


def test_the_smallest_machine() -> None:
    words = qemu_arguments("/bin/qemu", Accelerator.TCG, SPEC, GIVEN)
    assert words[0] == "/bin/qemu"
    assert {"-nodefaults", "-no-user-config", "-no-reboot", "-sandbox"} < set(words)
    (machine,) = _values(words, "-machine")
    assert machine.startswith("q35,accel=tcg,")
    assert _values(words, "-cpu") == ["max,la57=off,-erms,-fsrm"]
    assert (_values(words, "-smp"), _values(words, "-m")) == (["2"], ["262144k"])
    assert _values(words, "-kernel") == ["/proc/self/fd/5"]
    assert _values(words, "-initrd") == ["/proc/self/fd/6"]
    assert _values(words, "-add-fd") == ["fd=4,set=4", "fd=8,set=8", "fd=9,set=9"]
    assert _values(words, "-blockdev") == [
        f"driver=file,node-name=disk{n},filename=/dev/fdset/{8 + n},locking=off,read-only=on"
        for n in range(2)
    ]
    assert _values(words, "-device") == [
        "virtio-serial-pci-non-transitional,max_ports=2,addr=0x1.0,multifunction=on",
        "virtio-blk-pci-non-transitional,drive=disk0,werror=report,rerror=report,addr=0x1.1,multifunction=on",
        "virtio-blk-pci-non-transitional,drive=disk1,werror=report,rerror=report,addr=0x1.2,multifunction=on",
        "virtconsole,chardev=console,nr=0",
        "virtserialport,chardev=channel,nr=1",
    ]
    assert not _values(words, "-netdev")


def test_what_differs_between_the_accelerators() -> None:
    translated, native = (
        qemu_arguments("qemu", accelerator, SPEC, GIVEN)
        for accelerator in (Accelerator.TCG, Accelerator.KVM)
    )
    assert _values(native, "-cpu") == ["host"]
    assert "mitigations=off" in _values(translated, "-append")[0].split()
    assert "mitigations=off" not in _values(native, "-append")[0].split()
    for accelerator, cpus, measured in (("tcg", 1, False), ("tcg", 2, True), ("kvm", 1, True)):
        arguments = kernel_arguments(Accelerator(accelerator), _with(cpus=cpus))
        assert ("nolapic_timer" not in arguments) == measured


@pytest.mark.parametrize(
    ("flags", "bogomips", "speed"),
    [
        ("fpu constant_tsc nonstop_tsc", "5192.28", 2596140),
        ("fpu constant_tsc", "5192.28", 0),
        ("constant_tsc nonstop_tsc", "none", 0),
        ("nonstop_tsc constant_tsc", "0.00", 0),
    ],
)
def test_the_speed_of_the_hosts_counter(
    tmp_path: Path, flags: str, bogomips: str, speed: int
) -> None:
    info = tmp_path / "cpuinfo"
    one = f"processor\t: 0\ncpu MHz\t\t: 3999.9\nflags\t\t: {flags}\nbogomips\t: {bogomips}\n\n"
    info.write_text(one + one.replace(bogomips, "1.00"))
    assert cpumodel.processor(str(info)).counter_speed == speed
    word = f"tsc_early_khz={speed}"
    assert (word in kernel_arguments(Accelerator.TCG, SPEC, speed)) == bool(speed)
    assert word not in kernel_arguments(Accelerator.KVM, SPEC, speed)


def test_a_host_that_does_not_tell_its_counters_speed(tmp_path: Path) -> None:
    assert cpumodel.processor(str(tmp_path / "none")) == cpumodel.Processor()
    (tmp_path / "arm").write_text("processor\t: 0\nBogoMIPS\t: 243.75\nFeatures\t: fp\n")
    assert cpumodel.processor(str(tmp_path / "arm")) == cpumodel.Processor()


def test_the_command_line_holds_no_text_of_the_users() -> None:
    words = qemu_arguments("qemu", Accelerator.KVM, _full(), FULL)
    assert "user-text" not in " ".join(words)
    one, two = _values(words, "-fsdev")
    assert one.startswith("local,id=share0,path=/proc/self/fd/10,security_model=none,")
    assert one.endswith(",readonly=off")
    assert two.endswith(",readonly=on")
    assert "path=/proc/self/fd/12," in two
    assert _values(words, "-netdev") == ["socket,id=network,fd=14"]


def test_only_scratch_that_is_kept_is_flushed() -> None:
    for spec, flushed in ((_full(), False), (_full(scratch_file="/user-text"), True)):
        scratch = _values(qemu_arguments("qemu", Accelerator.TCG, spec, FULL), "-blockdev")[-1]
        assert "node-name=scratch" in scratch
        assert "read-only" not in scratch
        assert ("cache.no-flush=on" in scratch) is not flushed


def test_a_layer_that_is_written_to_is_the_root() -> None:
    spec = _with(layers=(LayerFile("/disk", type="ext4"),), write_layer=True)
    given = Descriptors(3, 4, 5, 6, 7, (8,))
    (disk,) = _values(qemu_arguments("qemu", Accelerator.TCG, spec, given), "-blockdev")
    assert "read-only" not in disk
    assert "no-flush" not in disk
    found = guest_spec(spec, given)
    assert found.layers == (GuestLayer("/dev/vda", "ext4"),)
    assert found.layer_is_root


def test_each_device_has_a_place_of_its_own() -> None:
    count = MOST_DEVICES - 1  # the channel has one
    spec = _with(layers=tuple(LayerFile(f"/{n}") for n in range(count)))
    given = Descriptors(3, 4, 5, 6, 7, tuple(range(8, 8 + count)))
    devices = _values(qemu_arguments("qemu", Accelerator.TCG, spec, given), "-device")
    places = [word for device in devices for word in device.split(",") if word.startswith("addr=")]
    assert len(places) == len(set(places)) == MOST_DEVICES
    assert places[8] == "addr=0x2.0"
    # q35 has devices of its own at 0 and 0x1f.
    assert places[-1] == "addr=0x1e.7"
    assert guest_spec(spec, given).layers[26].device == "/dev/vdaa"
    crowded = Descriptors(3, 4, 5, 6, 7, given.layers, scratch=999)
    with pytest.raises(MachineError, match="more than the"):
        qemu_arguments("qemu", Accelerator.TCG, spec, crowded)


def test_kernel_arguments() -> None:
    words = kernel_arguments(Accelerator.KVM, _with(kernel_arguments=("more=1",)))
    assert {"panic=-1", "console=hvc0", "apppot.channel=/dev/vport0p1"} < set(words)
    assert words[-1] == "more=1"


def test_confine_arguments() -> None:
    words = confine_arguments("confine", "/usr/bin/qemu", Accelerator.KVM, _full(), FULL)
    assert (words[0], words[-1]) == ("confine", "--")
    assert {"--landlock", "--no-tcp"} < set(words)
    assert _values(words, "--cpus") == ["1,3"]
    assert _values(words, "--chdir-fd") == ["7"]
    # Disks are handed over open: no path leads to them.
    assert _values(words, "--ro-fd") == ["5", "6", "11"]
    assert _values(words, "--rw-fd") == ["7", "10"]
    assert _values(words, "--list-fd") == ["12"]
    assert "/dev/kvm" in _values(words, "--rw")
    words = confine_arguments("confine", "/opt/q/bin/qemu", Accelerator.TCG, SPEC, GIVEN)
    assert "/dev/kvm" not in _values(words, "--rw")
    assert "/opt/q" in _values(words, "--rx")


def test_guest_spec() -> None:
    found = guest_spec(_full(network=Network.NONE), FULL)
    assert found.layers == (GuestLayer("/dev/vda"), GuestLayer("/dev/vdb", offset=4096))
    assert found.scratch == "/dev/vdc"
    assert found.network is None
    assert [(s.filesystem, s.source, s.part, s.single_file) for s in found.shares] == [
        ("9p", "share0", b"", False),
        ("9p", "share1", b"user-text", True),
    ]


def test_no_qemu_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    monkeypatch.setattr(process, "CLEAN_PATH", "/nowhere")
    monkeypatch.setattr(virtual, "_MORE_FOLDERS", ())
    with pytest.raises(MachineError, match="QEMU is not installed") as raised:
        virtual.program()
    assert "qemu-system-x86" in raised.value.hint


def test_a_machine_that_can_be_saved() -> None:
    spec = _with(saving=Saving("Model,enforce", "pc-q35-7.2"))
    words = qemu_arguments("qemu", Accelerator.TCG, spec, replace(GIVEN, monitor=10))
    assert _values(words, "-cpu") == ["Model,enforce"]
    assert _values(words, "-machine")[0].startswith("pc-q35-7.2,")
    assert "socket,id=monitor,fd=10" in _values(words, "-chardev")
    assert _values(words, "-mon") == ["chardev=monitor,mode=control"]
    assert "clocksource=hpet" in _values(words, "-append")[0].split()
    assert not _values(words, "-incoming")
    again = qemu_arguments("qemu", Accelerator.TCG, spec, replace(GIVEN, monitor=10, memory=11))
    assert _values(again, "-incoming") == ["fd:11"]
    assert _values(again, "-device") == _values(words, "-device")


def test_the_layout_is_that_of_the_devices() -> None:
    assert layout(_with(memory=1 << 30, hostname="other")) == layout(SPEC)
    others = {
        layout(_with(**{name: value}))
        for name, value in (
            ("layers", LAYERS[:1]),
            ("scratch", 1 << 30),
            ("network", Network.NONE),
        )
    }
    assert len({*others, layout(SPEC)}) == 4
