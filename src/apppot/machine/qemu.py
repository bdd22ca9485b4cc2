"""The QEMU engine: a PC with virtio devices, run by the processor (kvm) or translated (tcg)."""

from __future__ import annotations

import os
from _socket import socketpair
from enum import StrEnum

from apppot import kit, process
from apppot.errors import MachineError
from apppot.lean import TYPE_CHECKING, dataclass, replace
from apppot.machine import confined, cpumodel, folders, guest, network, scratch, virtiofs, virtual
from apppot.machine.engine import Engine, Hand, Machine
from apppot.machine.model import MachineSpec, Network, Saving
from apppot.machine.rundir import CONSOLE, RunDir

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import ExitStack

    from apppot.agent.spec import GuestSpec

CHANNEL = "/dev/vport0p1"
# One device each for the channel and the network: what is left of the functions of the slots
# 1 to 30 of the first PCI bus is for disks and folders.
_FUNCTIONS = 8
_SLOTS = range(1, 31)
MOST_DEVICES = len(_SLOTS) * _FUNCTIONS
_MACHINE = "sata=off,smbus=off,usb=off,vmport=off,mem-merge=off,dump-guest-core=off"
# Fast string instructions, which processors announce, are translated byte by byte: without them a
# page fault takes half the time.
_TRANSLATED = "max,la57=off,-erms,-fsrm"
_MTU = 65520  # passt's own


class Accelerator(StrEnum):
    """Who executes the guest's instructions."""

    KVM = "kvm"
    TCG = "tcg"


@dataclass(frozen=True)
class Descriptors:
    """The numbers under which QEMU inherits what it may use."""

    channel: int
    console: int
    kernel: int
    initrd: int
    run: int
    layers: tuple[int, ...]
    shares: tuple[folders.Folder, ...] = ()
    scratch: int | None = None
    network: int | None = None
    monitor: int | None = None
    memory: int | None = None


def kernel_arguments(accelerator: Accelerator, spec: MachineSpec, speed: int = 0) -> list[str]:
    """Return the guest kernel's command line; it holds no text of the user's.

    `speed` is that of the host's time stamp counter, in kHz; 0 if it is not certain.
    """
    arguments = [
        "console=hvc0",
        "panic=-1",
        "reboot=t",
        "no_timer_check",
        "tsc=reliable",
        "i8042.noaux",
        f"apppot.channel={CHANNEL}",
    ]
    if accelerator is Accelerator.TCG:
        # What protects from a processor's leaks has nothing to protect here, and is translated.
        arguments.append("mitigations=off")
        if speed:
            # The counter is the host's. Measuring it takes 0.05 s, and is wrong on busy hosts.
            arguments.append(f"tsc_early_khz={speed}")
        if spec.cpus == 1:
            # How fast the local timer runs is measured for 0.1 s. The HPET says it; it has one CPU.
            arguments.append("nolapic_timer")
        if spec.saving:
            # The time stamp counter is the host's: another host's may have another speed.
            arguments.append("clocksource=hpet")
    return [*arguments, *spec.kernel_arguments]


def qemu_arguments(
    program: str,
    accelerator: Accelerator,
    spec: MachineSpec,
    given: Descriptors,
    speed: int = 0,
) -> list[str]:
    """Return QEMU's command line. It holds no text of the user's: files are numbers.

    Raises MachineError if the machine would have more devices than a PC has places for.
    """
    placed = _placed(spec, given)
    cpu = "host" if accelerator is Accelerator.KVM else _TRANSLATED
    machine = "q35"
    if spec.saving:
        cpu, machine = spec.saving.cpu, spec.saving.machine
    memory = folders.memory(spec.memory, given.shares)
    if memory:
        machine += ",memory-backend=memory"
    # fmt: off
    return [
        program,
        "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none",
        "-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
        *(["-object", memory] if memory else []),
        "-machine", f"{machine},accel={accelerator},{_MACHINE}",
        "-cpu", cpu,
        "-smp", str(spec.cpus),
        "-m", f"{spec.memory >> 10}k",
        "-kernel", f"/proc/self/fd/{given.kernel}",
        "-initrd", f"/proc/self/fd/{given.initrd}",
        "-append", " ".join(kernel_arguments(accelerator, spec, speed)),
        *_backends(spec, given),
        *(word for device in placed for word in ("-device", device)),
        "-device", "virtconsole,chardev=console,nr=0",
        "-device", "virtserialport,chardev=channel,nr=1",
    ]
    # fmt: on


def layout(spec: MachineSpec) -> str:
    """Return a digest of the machine's devices and their places."""
    import hashlib  # only for machines that can be saved

    given = Descriptors(
        channel=0,
        console=0,
        kernel=0,
        initrd=0,
        run=0,
        layers=(0,) * len(spec.layers),
        scratch=None if spec.scratch is None else 0,
        network=0 if spec.network is Network.USER else None,
    )
    return hashlib.sha256("\n".join([_MACHINE, *_placed(spec, given)]).encode()).hexdigest()


def _placed(spec: MachineSpec, given: Descriptors) -> list[str]:
    """Return the devices with their places on the bus; raises MachineError."""
    devices = list(_devices(given))
    if len(devices) > MOST_DEVICES:
        raise MachineError(
            f"{len(spec.layers)} layers and {len(spec.shares)} shared folders are more than the"
            f" {MOST_DEVICES - 3} devices of a machine under QEMU",
            hint="use fewer --bind, or an image with fewer layers",
        )
    return [
        f"{device},addr={_SLOTS[n // _FUNCTIONS]:#x}.{n % _FUNCTIONS},multifunction=on"
        for n, device in enumerate(devices)
    ]


def _backends(spec: MachineSpec, given: Descriptors) -> Iterator[str]:
    """Yield the options for the host's side of each device."""
    yield from ("-add-fd", f"fd={given.console},set={given.console}")
    yield from ("-chardev", f"file,id=console,path=/dev/fdset/{given.console},append=on")
    yield from ("-chardev", f"socket,id=channel,fd={given.channel}")
    for n, number in enumerate(given.layers):
        yield from _disk(f"disk{n}", number, writable=spec.write_layer)
    if given.scratch is not None:
        kept = bool(spec.scratch_file)
        yield from _disk("scratch", given.scratch, writable=True, flush=kept)
    yield from folders.backends(spec.shares, given.shares)
    if given.network is not None:
        yield from ("-netdev", f"socket,id=network,fd={given.network}")
    if given.monitor is not None:
        yield from ("-chardev", f"socket,id=monitor,fd={given.monitor}")
        yield from ("-mon", "chardev=monitor,mode=control")
    if given.memory is not None:
        yield from ("-incoming", f"fd:{given.memory}")


def _disk(name: str, number: int, *, writable: bool, flush: bool = True) -> Iterator[str]:
    """Yield the options for one disk. No locks: file systems of clusters may have none."""
    yield from ("-add-fd", f"fd={number},set={number}")
    yield "-blockdev"
    yield (
        f"driver=file,node-name={name},filename=/dev/fdset/{number},locking=off,"
        + ("discard=unmap" if writable else "read-only=on")
        + ("" if flush else ",cache.no-flush=on")
    )


def _devices(given: Descriptors) -> Iterator[str]:
    """Yield the machine's devices in the order of their places, which decides on disks' names."""
    modern = "-pci-non-transitional"
    yield f"virtio-serial{modern},max_ports=2"
    disks = [f"disk{n}" for n in range(len(given.layers))]
    for disk in (*disks, *(["scratch"] if given.scratch is not None else [])):
        # By default QEMU holds a machine whose disk finds no room on the host, for ever.
        yield f"virtio-blk{modern},drive={disk},werror=report,rerror=report"
    yield from folders.devices(given.shares)
    if given.network is not None:
        yield f"virtio-net{modern},netdev=network,romfile=,host_mtu={_MTU}"


def confine_arguments(
    confine: str, program: str, accelerator: Accelerator, spec: MachineSpec, given: Descriptors
) -> list[str]:
    """Return the words before QEMU's command line: what the host enforces on it."""
    words = [
        *confined.words(confine, program, spec.host_cpus),
        *("--chdir-fd", str(given.run), "--rw-fd", str(given.run)),
        *("--ro-fd", str(given.kernel), "--ro-fd", str(given.initrd)),
    ]
    if accelerator is Accelerator.KVM:
        words += ["--rw", virtual.DEVICE]
    for share, folder in zip(spec.shares, given.shares, strict=True):
        if folder.server is None:
            words += folders.rights(share, folder)
    return [*words, "--"]


def guest_spec(spec: MachineSpec, given: Descriptors) -> GuestSpec:
    """Return what the agent is asked to set up."""
    shares = folders.guest_shares(spec.shares, given.shares)
    return guest.common(spec, "vd", shares, scratch=given.scratch is not None)


class QemuEngine(Engine):
    """QEMU: a PC, on the processor's virtualization or without it."""

    def __init__(self, accelerator: Accelerator, tools: kit.Kit | None = None) -> None:
        self.name = str(accelerator)
        self._accelerator = accelerator
        self._tools = tools

    def start(self, spec: MachineSpec, run: RunDir, stack: ExitStack) -> Machine:
        """Start QEMU, and passt for its network; raises MachineError."""
        import contextlib

        tools = self._tools or kit.find()
        qemu = virtual.program()
        with contextlib.ExitStack() as ours:
            hand = Hand(ours)
            host_end, guest_end = socketpair()
            channel = host_end.detach()  # from here on the caller's; see Machine.channel
            console = run.file(CONSOLE)
            log = os.open(console, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            given = self._open(spec, run, tools, hand, (guest_end.detach(), log))
            for descriptor in spec.held:
                hand.give(os.dup(descriptor))
            nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            ours.callback(os.close, nothing)
            helpers: dict[int, str] = {}
            if spec.network is Network.USER:
                passt_end, qemu_end = socketpair()
                ours.callback(passt_end.close)
                given = replace(given, network=hand.give(qemu_end.detach()))
                pid = network.start_passt(
                    tools,
                    passt_end.fileno(),
                    nothing,
                    log,
                    host_loopback=spec.host_loopback,
                    vhost_user=False,
                )
                helpers[pid] = "passt"
            monitor = disk = None
            if spec.saving:
                monitor, given = _monitor(spec.saving, given, hand, stack)
                if given.scratch is not None:
                    disk = os.dup(hand.map[given.scratch])
                    stack.callback(os.close, disk)
            translated = self._accelerator is Accelerator.TCG
            speed = cpumodel.processor().counter_speed if translated else 0
            confine = tools.file(kit.CONFINE)
            standard = {0: nothing, 1: log, 2: log}
            shares, servers = folders.serve(
                confine, spec, given.shares, run.path, standard, hand, translated=translated
            )
            given = replace(given, shares=shares)
            helpers |= dict.fromkeys(servers, virtiofs.PROGRAM)
            pid = process.spawn(
                [
                    *confine_arguments(confine, qemu, self._accelerator, spec, given),
                    *qemu_arguments(qemu, self._accelerator, spec, given, speed),
                ],
                descriptors={**standard, **hand.map},
                env={"HOME": "/", "PATH": process.CLEAN_PATH, "LC_ALL": "C"},
                deaf=True,
            )
        machine = Machine(
            pid=pid,
            channel=channel,
            guest=guest_spec(spec, given),
            run=run,
            console=console,
            helpers=helpers,
            has_clock=False,
            monitor=monitor,
            scratch=disk,
        )
        stack.callback(machine.kill)
        return machine

    def _open(
        self, spec: MachineSpec, run: RunDir, tools: kit.Kit, hand: Hand, ends: tuple[int, int]
    ) -> Descriptors:
        channel, log = ends
        writing = os.O_RDWR if spec.write_layer else os.O_RDONLY
        return Descriptors(
            channel=hand.give(channel),
            console=hand.give(log),
            kernel=hand.open(tools.file(kit.PC_KERNEL), os.O_RDONLY, "the kit's PC kernel"),
            initrd=hand.open(tools.file(kit.AGENT), os.O_RDONLY, "the kit's agent"),
            run=hand.open(run.path, os.O_RDONLY | os.O_DIRECTORY, "the machine's folder"),
            layers=tuple(
                hand.open(layer.path, writing, "the image's layer") for layer in spec.layers
            ),
            shares=tuple(folders.give(hand, share) for share in spec.shares),
            scratch=scratch.give_disk(spec, tools, hand),
        )

    def explain(self, machine: Machine) -> MachineError:
        """Tell a panic, a kill by the host, and a QEMU that does not start from each other."""
        from apppot.machine import ended

        return ended.error(machine.reap().status, machine.console_tail())


def _monitor(
    saving: Saving, given: Descriptors, hand: Hand, stack: ExitStack
) -> tuple[int, Descriptors]:
    """Give QEMU its end of a monitor, and the saved memory if there is one; return our end."""
    ours, theirs = socketpair()
    monitor = ours.detach()
    stack.callback(os.close, monitor)
    given = replace(given, monitor=hand.give(theirs.detach()))
    if saving.memory is not None:
        given = replace(given, memory=hand.give(os.dup(saving.memory)))
    return monitor, given
