"""The VirtualBox engine: a machine made by VBoxManage, in a VirtualBox home of its own.

Nothing is copied: its one disk is a description that joins a boot area, the layers' files and the
scratch file. The channel is the first serial port, the kernel's console the second.
"""

from __future__ import annotations

import os
import socket
import uuid

from apppot import kit, process
from apppot.errors import AppPotError, MachineError
from apppot.lean import TYPE_CHECKING, dataclass, replace
from apppot.machine import guest, runfiles, undo
from apppot.machine.engine import Engine, Machine
from apppot.machine.model import MachineSpec, Network
from apppot.machine.rundir import CONSOLE, RunDir

if TYPE_CHECKING:
    from contextlib import ExitStack

    from apppot.agent.spec import GuestSpec

DRIVER = "/dev/vboxdrv"
CHANNEL = "/dev/ttyS0"
SECTOR = 512
HEAD, TAIL, DISK = "head.raw", "tail.raw", "disk.vmdk"
SERIAL, LOG = "serial", "virtualbox.log"
_PATIENCE = 60.0  # seconds for VirtualBox to start a machine
_TABLE = 64  # the sector of the boot loader's table, after that of the partitions
_ALIGNED = 2048


@dataclass(frozen=True)
class Extent:
    """A file, in the run's folder or linked there, that is a part of the disk; in sectors."""

    name: str
    sectors: int
    writable: bool = False


def kernel_arguments(spec: MachineSpec) -> list[str]:
    """Return the guest kernel's command line; it holds no text of the user's."""
    fixed = ("console=ttyS1,115200", "panic=-1", f"apppot.channel={CHANNEL}")
    return [*fixed, *spec.kernel_arguments]


def boot_area(tools: kit.Kit, arguments: list[str]) -> tuple[bytes, bytes]:
    """Return the boot code, and what is on the disk from the loader's table on.

    That is the kernel and the agent; raises AppPotError.
    """
    from apppot.image.bootdisk import linux

    def read(name: str) -> bytes:
        with open(tools.file(name), "rb") as file:
            return file.read()

    kernel, initrd = linux.parse(read(kit.PC_KERNEL)), read(kit.AGENT)
    real_mode = linux.real_mode(kernel, " ".join(arguments).encode(), len(initrd))
    contents, pieces, at = [], [], _TABLE + 1
    for content, address in (
        (real_mode, linux.SETUP_ADDRESS),
        (kernel.image[kernel.setup :], linux.KERNEL_ADDRESS),
        (initrd, kernel.initrd_address),
    ):
        contents.append(_whole(content))
        pieces.append(linux.Piece(at, len(contents[-1]) // SECTOR, address))
        at += pieces[-1].count
    code = linux.boot_sector(read(kit.BIOS_LOADER), _TABLE)
    return code, b"".join((linux.table(pieces), *contents))


def _whole(content: bytes) -> bytes:
    return content.ljust(-(-len(content) // SECTOR) * SECTOR, b"\0")


def tables(code: bytes, parts: list[tuple[int, int]], sectors: int) -> tuple[bytes, bytes]:
    """Return a disk's first and last sectors; `parts` are its partitions' begins and lengths.

    Raises MachineError if these are too many.
    """
    from apppot.image.bootdisk import gpt

    if len(parts) > gpt.ENTRIES:
        raise MachineError(f"{len(parts)} layers are more than a disk can have partitions")
    space = uuid.UUID("b4b9a6fe-6a34-5d3c-93b5-0c1c7ad6e7b2")
    entries = [
        gpt.Entry(gpt.LINUX, uuid.uuid5(space, str(n)), f"part{n}", first, count)
        for n, (first, count) in enumerate(parts)
    ]
    return gpt.head(space, entries, sectors, code), gpt.tail(space, entries, sectors)


def description(extents: list[Extent], identity: str) -> str:
    """Return a VMDK that joins files to one disk."""
    lines = [
        f'{"RW" if each.writable else "RDONLY"} {each.sectors} FLAT "{each.name}" 0'
        for each in extents
    ]
    cylinders = min(-(-sum(each.sectors for each in extents) // (16 * 63)), 16383)
    return "\n".join(
        (
            *("# Disk DescriptorFile", "version=1", f"CID={identity[:8]}", "parentCID=ffffffff"),
            *('createType="twoGbMaxExtentFlat"', "", "# Extent description", *lines, ""),
            *("# The Disk Data Base", "#DDB", "", 'ddb.virtualHWVersion = "4"'),
            *('ddb.adapterType = "ide"', f'ddb.geometry.cylinders = "{cylinders}"'),
            *('ddb.geometry.heads = "16"', 'ddb.geometry.sectors = "63"'),
            *(f'ddb.uuid.image = "{identity}"', ""),
        )
    )


def commands(
    manage: str, name: str, spec: MachineSpec, folder: str, serial: str, console: str
) -> list[list[str]]:
    """Return the calls of VBoxManage that make the machine."""
    # fmt: off
    network = ["--nic1", "none"] if spec.network is Network.NONE else [
        "--nic1", "nat", "--nic-type1", "82540EM", "--nat-dns-proxy1", "on",
        "--nat-localhostreachable1", "on" if spec.host_loopback else "off",
    ]
    return [
        [manage, "createvm", "--name", name, "--ostype", "Linux26_64", "--register",
         "--basefolder", folder],
        [manage, "modifyvm", name, "--memory", str(spec.memory >> 20), "--cpus", str(spec.cpus),
         "--ioapic", "on", "--firmware", "bios", "--chipset", "piix3", "--rtc-use-utc", "on",
         "--boot1", "disk", "--boot2", "none", "--boot3", "none", "--boot4", "none",
         "--bios-logo-fade-in", "off", "--bios-logo-fade-out", "off",
         "--bios-logo-display-time", "0", "--bios-boot-menu", "disabled",
         "--vram", "8", "--audio-driver", "none", "--vrde", "off",
         "--uart1", "0x3F8", "4", "--uart-mode1", "client", serial,
         "--uart2", "0x2F8", "3", "--uart-mode2", "file", console, *network],
        [manage, "storagectl", name, "--name", "sata", "--add", "sata",
         "--controller", "IntelAhci", "--portcount", "1", "--bootable", "on",
         "--hostiocache", "on"],
        [manage, "storageattach", name, "--storagectl", "sata", "--port", "0", "--type", "hdd",
         "--medium", os.path.join(folder, DISK)],
    ]
    # fmt: on


def guest_spec(spec: MachineSpec, *, scratch: bool) -> GuestSpec:
    """Return what the agent is asked to set up: layers, then scratch, are the disk's partitions."""
    made = guest.common(spec, "sd", (), scratch=scratch)
    layers = tuple(
        replace(layer, device=f"/dev/sda{number}") for number, layer in enumerate(made.layers, 1)
    )
    return replace(made, layers=layers, scratch=f"/dev/sda{len(layers) + 1}" if scratch else "")


def problem() -> str:
    """Return why there can be no machines of VirtualBox's here, or ""."""
    try:
        for name in ("VBoxManage", "VBoxHeadless"):
            process.find_program(name)
        tools = kit.find()
        for file in (kit.PC_KERNEL, kit.BIOS_LOADER):
            tools.file(file)
    except AppPotError as error:
        return error.message
    if not os.path.exists(DRIVER):
        return f"VirtualBox's driver is not loaded: there is no {DRIVER}"
    return ""


class VirtualBoxEngine(Engine):
    """VirtualBox, without its window."""

    name = "virtualbox"

    def __init__(self, tools: kit.Kit | None = None) -> None:
        self._tools = tools

    def start(self, spec: MachineSpec, run: RunDir, stack: ExitStack) -> Machine:
        """Make a machine and start it; raises MachineError."""
        if reason := problem():
            raise MachineError(
                f"the engine virtualbox does not work here: {reason}",
                hint="install VirtualBox with its driver; 'apppot doctor virtualbox' tries it",
            )
        if spec.write_layer or any(layer.size for layer in spec.layers):
            raise MachineError("the engine virtualbox does not run raw disks")
        tools = self._tools or kit.find()
        folder, name = runfiles.folder(run), f"apppot-{run.ident}"
        manage = process.find_program("VBoxManage")
        settings = {
            "VBOX_USER_HOME": os.path.join(folder, "home"),
            "VBOX_IPC_SOCKETID": name,
            "USER": os.environ.get("USER", str(os.getuid())),
        }
        stack.callback(undo.act, run.path)
        undo.write(run.path, [[manage, "controlvm", name, "poweroff"]], [folder], settings)
        scratch = join(spec, tools, run, kernel_arguments(spec))
        serial, console = run.file(SERIAL), run.file(CONSOLE)
        environment = process.clean_environment(settings)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(serial)
            listener.listen(1)
            listener.settimeout(1.0)
            for command in commands(manage, name, spec, folder, serial, console):
                process.run(command, env=environment)
            headless = process.find_program("VBoxHeadless")
            words = [headless, "--startvm", name, "--vrde", "off"]
            log = run.file(LOG)
            machine = Machine(
                pid=runfiles.spawn(spec, log, words, settings),
                channel=-1,
                guest=guest_spec(spec, scratch=scratch),
                run=run,
                console=console,
                has_clock=False,
            )
            stack.callback(machine.kill)
            machine.channel = _accept(listener, machine, log)
        return machine

    def explain(self, machine: Machine) -> MachineError:
        """Tell a panic from a VirtualBox that ended."""
        from apppot.machine import ended

        return ended.error(machine.reap().status, machine.console_tail())


def join(spec: MachineSpec, tools: kit.Kit, run: RunDir, arguments: list[str]) -> bool:
    """Write the disk's description, its begin and its end into the run's folder.

    Return whether there is a scratch disk. Raises AppPotError.
    """
    from apppot.image.bootdisk import gpt

    folder = runfiles.folder(run)
    scratch = runfiles.scratch(spec, tools, run)
    code, area = boot_area(tools, arguments)
    at = -(-(_TABLE + len(area) // SECTOR) // _ALIGNED) * _ALIGNED
    extents, parts = [Extent(HEAD, at)], []
    files = [*(layer.path for layer in spec.layers), *([scratch] if scratch else [])]
    for number, path in enumerate(files):
        size = os.path.getsize(path)
        if size % SECTOR:
            raise MachineError(f"{path} does not end with a whole sector")
        name = f"part{number}"
        # Names in a description are of its own folder.
        os.symlink(os.path.realpath(path), os.path.join(folder, name))
        extents.append(Extent(name, size // SECTOR, writable=path == scratch))
        parts.append((at, size // SECTOR))
        at += size // SECTOR
    extents.append(Extent(TAIL, gpt.TABLE_SECTORS))
    begin, end = tables(code, parts, at + gpt.TABLE_SECTORS)
    begin = begin.ljust(_TABLE * SECTOR, b"\0") + area
    identity = f"{run.ident}-0000-4000-8000-{run.ident}0000"
    for name, content in (
        (HEAD, begin.ljust(extents[0].sectors * SECTOR, b"\0")),
        (TAIL, end),
        (DISK, description(extents, identity).encode()),
    ):
        with open(os.path.join(folder, name), "xb") as file:
            file.write(content)
    return bool(scratch)


def _accept(listener: socket.socket, machine: Machine, log: str) -> int:
    """Wait for VirtualBox to connect the serial port; raises MachineError."""
    for _ in range(int(_PATIENCE)):
        try:
            return listener.accept()[0].detach()
        except TimeoutError:
            if os.waitid(os.P_PID, machine.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                break
    with open(log, encoding="utf-8", errors="replace") as file:
        lines = [line.strip() for line in file if "rror" in line]
    raise MachineError(
        "VirtualBox did not start the machine: " + (lines[0] if lines else "it says nothing"),
        hint="'apppot doctor virtualbox' tells what is missing",
    )
