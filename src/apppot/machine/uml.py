"""The User-Mode Linux engine: the guest kernel is an ordinary process of the calling user."""

from __future__ import annotations

import os
from _socket import socketpair  # `socket` takes 2 ms, and is loaded while the kernel boots

from apppot import kit, process
from apppot.agent.spec import GuestShare, GuestSpec
from apppot.errors import MachineError
from apppot.lean import TYPE_CHECKING, dataclass, replace
from apppot.machine import guest, network, scratch
from apppot.machine.engine import Engine, Hand, Machine
from apppot.machine.model import MachineSpec, Network, Share, UmlMode
from apppot.machine.rundir import CONSOLE, RunDir

if TYPE_CHECKING:
    from contextlib import ExitStack

# Any value spares the kernel 40 ms of calibration; delays by counting loops are not used by the
# drivers in the kit's kernel.
LOOPS_PER_JIFFY = 4_000_000
# One mapping on the host, and one fault, cover a folio of several pages; see kernel.md.
FOLIOS = "16K,32K,64K,128K,256K,512K,1M"
# Restartable sequences cost the host something at each switch between kernel and stub (2 % of a
# guest's system call), and the kernel has no use for those that the C library registers.
_ENVIRONMENT = {
    "HOME": "/",
    "PATH": process.CLEAN_PATH,
    "GLIBC_TUNABLES": "glibc.pthread.rseq=0",
}
_CHANNEL = "/dev/hostpipe"
# COMMAND_LINE_SIZE in arch/um/include/asm/setup.h, less what the kernel itself puts before it.
_LONGEST = 4000


@dataclass(frozen=True)
class Descriptors:
    """The numbers under which the kernel process inherits what it may use."""

    channel: int
    initrd: int
    run: int
    layers: tuple[int, ...]
    shares: tuple[int, ...] = ()
    scratch: int | None = None
    network: int | None = None


def kernel_arguments(spec: MachineSpec, given: Descriptors) -> list[str]:
    """Return the guest kernel's command line. It holds no text of the user's, only numbers.

    Raises MachineError if it is too long.
    """
    arguments = [
        f"mem={spec.memory >> 10}K",
        f"seccomp={'on' if spec.mode is UmlMode.SECCOMP else 'off'}",
        f"lpj={LOOPS_PER_JIFFY}",
        f"thp_anon={FOLIOS}:always",
        # Memory that programs share: as it is touched, and as fallocate() reserves it.
        f"thp_shmem={FOLIOS}:within_size",
        "transparent_hugepage_shmem=within_size",
        f"initrd=/proc/self/fd/{given.initrd}",
        "uml_dir=./",
        "con=none",
        "con0=null,fd:1",
        f"hostpipe={given.channel}",
        "panic=-1",
        f"apppot.channel={_CHANNEL}",
    ]
    if spec.cpus > 1:
        arguments.append(f"ncpus={spec.cpus}")
    # r: read-only; c: no lock on the file, for file systems of clusters that have none
    kind = "c" if spec.write_layer else "rc"
    arguments.extend(f"ubd{n}{kind}=/proc/self/fd/{fd}" for n, fd in enumerate(given.layers))
    if given.scratch is not None:
        arguments.append(f"ubd{len(given.layers)}c=/proc/self/fd/{given.scratch}")
    shares = [
        f"{fd}{'ro' if share.read_only else ''}"
        for fd, share in zip(given.shares, spec.shares, strict=True)
    ]
    # Without a share a descriptor that is no directory closes hostfs altogether.
    arguments.append("hostfs_fd=" + (",".join(shares) or "0ro"))
    if given.network is not None:
        arguments.append(f"virtio_uml.device=fd={given.network}:1")
    arguments.extend(spec.kernel_arguments)
    if sum(len(word) + 1 for word in arguments) > _LONGEST:
        raise MachineError(
            f"{len(spec.layers)} layers and {len(spec.shares)} shared folders make the guest"
            " kernel's command line too long",
            hint="use fewer --bind and --kernel-arg, or an image with fewer layers",
        )
    return arguments


def confine_arguments(
    program: str, spec: MachineSpec, given: Descriptors, parent: int
) -> list[str]:
    """Return the words before the kernel's command line: what the host enforces on it."""
    # fmt: off
    words = [
        program,
        "--parent", str(parent),
        "--chdir-fd", str(given.run),
        "--cpus", ",".join(map(str, spec.host_cpus)),
        "--no-aslr",
        "--landlock",
        "--no-tcp",  # the guest's connections are passt's
        "--rw-fd", str(given.run),
        "--ro-fd", str(given.initrd),
        "--ro", "/proc",
        "--rw", os.devnull,
    ]
    # fmt: on
    for descriptor in given.layers:
        words += ["--rw-fd" if spec.write_layer else "--ro-fd", str(descriptor)]
    for descriptor, share in zip(given.shares, spec.shares, strict=True):
        words += ["--ro-fd" if share.read_only else "--rw-fd", str(descriptor)]
    if given.scratch is not None:
        words += ["--rw-fd", str(given.scratch)]
    return [*words, "--"]


def guest_spec(spec: MachineSpec, given: Descriptors, single_files: tuple[bool, ...]) -> GuestSpec:
    """Return what the agent is asked to set up."""
    shares = tuple(
        GuestShare("hostfs", f"share{n}", share.target, str(fd), share.read_only, single)
        for n, (share, fd, single) in enumerate(
            zip(spec.shares, given.shares, single_files, strict=True)
        )
    )
    return guest.common(spec, "ubd", shares, scratch=given.scratch is not None)


class UmlEngine(Engine):
    """User-Mode Linux: needs no privilege and no device."""

    name = "uml"

    def __init__(self, tools: kit.Kit | None = None) -> None:
        self._tools = tools

    def start(self, spec: MachineSpec, run: RunDir, stack: ExitStack) -> Machine:
        """Start the kernel, and passt for its network; raises MachineError."""
        import contextlib

        tools = self._tools or kit.find()
        with contextlib.ExitStack() as ours:
            hand = Hand(ours)
            host_end, guest_end = socketpair()
            channel = host_end.detach()  # from here on the caller's; see Machine.channel
            given = self._open(spec, run, tools, hand, guest_end.detach())
            singles = tuple(map(hand.single_file, given.shares))
            for descriptor in spec.held:
                hand.give(os.dup(descriptor))
            console = run.file(CONSOLE)
            log = os.open(console, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            ours.callback(os.close, log)
            nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
            ours.callback(os.close, nothing)
            helpers: dict[int, str] = {}
            if spec.network is Network.USER:
                passt_end, kernel_end = socketpair()
                ours.callback(passt_end.close)
                given = replace(given, network=hand.give(kernel_end.detach()))
                end = passt_end.fileno()
                pid = network.start_passt(
                    tools, end, nothing, log, host_loopback=spec.host_loopback
                )
                helpers[pid] = "passt"
            pid = process.spawn(
                [
                    *confine_arguments(tools.file(kit.CONFINE), spec, given, os.getpid()),
                    tools.file(kit.LINUX),
                    *kernel_arguments(spec, given),
                ],
                descriptors={0: nothing, 1: log, 2: log, **hand.map},
                env=_ENVIRONMENT,
                deaf=True,
            )
        machine = Machine(
            pid=pid,
            channel=channel,
            guest=guest_spec(spec, given, singles),
            run=run,
            console=console,
            helpers=helpers,
        )
        stack.callback(machine.kill)
        return machine

    def _open(
        self, spec: MachineSpec, run: RunDir, tools: kit.Kit, hand: Hand, channel: int
    ) -> Descriptors:
        return Descriptors(
            channel=hand.give(channel),
            initrd=hand.open(tools.file(kit.AGENT), os.O_RDONLY, "the kit's agent"),
            run=hand.open(run.path, os.O_RDONLY | os.O_DIRECTORY, "the machine's folder"),
            layers=tuple(
                hand.open(
                    layer.path, os.O_RDWR if spec.write_layer else os.O_RDONLY, "the image's layer"
                )
                for layer in spec.layers
            ),
            shares=tuple(_open_share(hand, share) for share in spec.shares),
            scratch=scratch.give_disk(spec, tools, hand),
        )

    def explain(self, machine: Machine) -> MachineError:
        """Tell a panic, a kill by the host, and a kernel that does not start from each other."""
        from apppot.machine import ended  # only for machines that die

        return ended.error(machine.reap().status, machine.console_tail())


def _open_share(hand: Hand, share: Share) -> int:
    return hand.open(share.source, os.O_PATH, "the shared folder")
