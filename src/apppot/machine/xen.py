"""The Xen engine: a domain made by xl, in the privileged domain of a Xen host.

The channel is the domain's own console, on which the kernel says nothing but its last words.
"""

from __future__ import annotations

import os
import time
from enum import StrEnum

from apppot import config, kit, process
from apppot.errors import AppPotError, MachineError, UsageError
from apppot.lean import TYPE_CHECKING, dataclass
from apppot.machine import guest, runfiles, undo
from apppot.machine.engine import Engine, Machine
from apppot.machine.model import MachineSpec, Network
from apppot.machine.rundir import CONSOLE, RunDir

if TYPE_CHECKING:
    from contextlib import ExitStack

PRIVILEGED = "/proc/xen/capabilities"
CHANNEL = "/dev/hvc0"
CONFIGURATION = "domain.cfg"
_PATIENCE = 60.0  # seconds for xl to make a domain
_STEP = 0.05
_CRASHED = "reason code 3"


class Kind(StrEnum):
    """How the processor is shared with the hypervisor."""

    PV = "pv"
    PVH = "pvh"


@dataclass(frozen=True)
class Files:
    """What a domain is made of: paths in the privileged domain."""

    kernel: str
    initrd: str
    layers: tuple[str, ...]
    scratch: str = ""


def kernel_arguments(spec: MachineSpec) -> list[str]:
    """Return the guest kernel's command line; it holds no text of the user's."""
    fixed = ("console=ttynull", "loglevel=1", "panic=-1", f"apppot.channel={CHANNEL}")
    return [*fixed, *spec.kernel_arguments]


def domain(name: str, kind: Kind, spec: MachineSpec, files: Files) -> str:
    """Return xl's configuration of a machine; raises UsageError for impossible names."""
    from apppot.image.bootdisk.hosts import quoted

    layers = [(path, "rw" if spec.write_layer else "ro") for path in files.layers]
    if files.scratch:
        layers.append((files.scratch, "rw"))
    disks = ", ".join(
        quoted(
            f"format=raw, vdev={guest.disk_name('xvd', n)}, access={access}, script=block,"
            f" target={path}"
        )
        for n, (path, access) in enumerate(layers)
    )
    return f"""name = {quoted(name)}
type = "{kind}"
kernel = {quoted(files.kernel)}
ramdisk = {quoted(files.initrd)}
extra = {quoted(" ".join(kernel_arguments(spec)))}
memory = {spec.memory >> 20}
vcpus = {spec.cpus}
disk = [{disks}]
tsc_mode = "native"
on_poweroff = "destroy"
on_reboot = "destroy"
on_crash = "destroy"
"""


def problem() -> str:
    """Return why there can be no machines of Xen's here, or ""."""
    try:
        with open(PRIVILEGED, encoding="ascii", errors="replace") as file:
            if "control_d" not in file.read():
                return "this is a guest of Xen's, and not its privileged domain"
    except OSError:
        return f"this computer does not run Xen: there is no {PRIVILEGED}"
    try:
        program()
        kit.find().file(kit.PC_KERNEL)
    except AppPotError as error:
        return error.message
    return "xl needs root" if os.geteuid() else ""


def program() -> str:
    """Return xl's path; raises AppPotError."""
    return process.find_program("xl", hint="install xen-utils-common (Debian), or Xen's tools")


def kind() -> Kind:
    """Return what the setting xen.type says, or what this host's processor can do."""
    wanted = config.text("xen.type")
    if wanted != "auto":
        try:
            return Kind(wanted)
        except ValueError:
            raise UsageError(
                f"there is no type '{wanted}' of Xen's machines (APPPOT_XEN_TYPE, xen.type)",
                hint="auto, pv or pvh",
            ) from None
    done = process.run([program(), "info", "virt_caps"], check=False)
    words = done.stdout.decode("ascii", "replace").split()
    return Kind.PVH if "hvm" in words else Kind.PV


class XenEngine(Engine):
    """Xen, as PVH where the processor can virtualize, else as PV."""

    name = "xen"

    def __init__(self, tools: kit.Kit | None = None) -> None:
        self._tools = tools

    def start(self, spec: MachineSpec, run: RunDir, stack: ExitStack) -> Machine:
        """Let xl make a domain; raises MachineError."""
        if reason := problem():
            raise MachineError(
                f"the engine xen does not work here: {reason}",
                hint="it needs root in a Xen host's privileged domain; see 'apppot doctor xen'",
            )
        if spec.network is not Network.NONE:
            raise UsageError(
                "the engine xen gives machines no network yet", hint="add --network none"
            )
        tools = self._tools or kit.find()
        name = f"apppot-{run.ident}"
        destroy = [program(), "destroy", name]
        stack.callback(undo.act, run.path)
        undo.write(run.path, [destroy], [runfiles.folder(run)])
        files = Files(
            os.path.realpath(tools.file(kit.PC_KERNEL)),
            os.path.realpath(tools.file(kit.AGENT)),
            tuple(os.path.realpath(layer.path) for layer in spec.layers),
            runfiles.scratch(spec, tools, run),
        )
        configuration = run.file(CONFIGURATION)
        with open(configuration, "w", encoding="utf-8") as file:
            file.write(domain(name, kind(), spec, files))
        console = run.file(CONSOLE)
        # fmt: off
        pid = runfiles.spawn(
            spec, console,
            [tools.file(kit.CONFINE), "--parent", str(os.getpid()), "--",
             program(), "create", "-F", configuration],
        )
        # fmt: on
        machine = Machine(
            pid=pid,
            channel=-1,
            guest=guest.common(spec, "xvd", (), scratch=bool(files.scratch)),
            run=run,
            console=console,
            has_clock=False,
        )
        stack.callback(machine.kill)
        machine.channel = _open_console(machine, name)
        return machine

    def explain(self, machine: Machine) -> MachineError:
        """Tell a kernel that crashed, a domain that was destroyed and a failed xl apart."""
        from apppot.machine import ended

        status, said = machine.reap().status, machine.console_tail()
        if _CRASHED in said:
            return MachineError(
                "the guest kernel crashed", hint="give the machine more memory with --memory"
            )
        return ended.error(status, said)


def _open_console(machine: Machine, name: str) -> int:
    """Wait for xl to make the domain, and open its console; raises MachineError."""
    deadline = time.monotonic() + _PATIENCE
    while time.monotonic() < deadline:
        if os.waitid(os.P_PID, machine.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT):
            raise _failed(machine)
        path = _console(name)
        if path:
            return os.open(path, os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC)
        time.sleep(_STEP)
    raise MachineError(f"xl did not make a domain within {_PATIENCE:.0f} s")


def _console(name: str) -> str:
    """Return the path of a domain's console, '' if there is none yet."""
    done = process.run([program(), "domid", name], check=False)
    number = done.stdout.decode("ascii", "replace").strip()
    if done.returncode != 0 or not number.isdigit():
        return ""
    path = f"/local/domain/{number}/console/tty"
    done = process.run([process.find_program("xenstore-read"), path], check=False)
    return done.stdout.decode("ascii", "replace").strip() if done.returncode == 0 else ""


def _failed(machine: Machine) -> MachineError:
    machine.reap()
    said = machine.console_tail()
    lines = [line for line in said.splitlines() if "error" in line] or said.splitlines()
    more = "memory" in said
    return MachineError(
        "xl could not make the domain: " + (lines[0].strip() if lines else "it says nothing"),
        hint="use less --memory: the privileged domain has the rest" if more else "see 'xl dmesg'",
    )
