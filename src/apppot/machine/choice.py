"""Which engine runs a machine: the one that was asked for, else the best that works here."""

from __future__ import annotations

from apppot import config
from apppot.errors import MachineError, UsageError
from apppot.lean import TYPE_CHECKING, dataclass
from apppot.machine.model import EngineName, UmlMode

if TYPE_CHECKING:
    from apppot.machine.engine import Engine


@dataclass(frozen=True)
class Choice:
    """An engine, why it is this one, and the mode of User-Mode Linux if it is that."""

    name: EngineName
    reason: str
    mode: UmlMode | None = None

    def __str__(self) -> str:
        mode = f", {self.mode} mode" if self.mode else ""
        return f"engine {self.name}{mode}: {self.reason}"

    @property
    def stages(self) -> bool:
        """Whether folders have to be brought in and out, because it has no shared ones."""
        return self.name in (EngineName.XEN, EngineName.VIRTUALBOX)

    def engine(self) -> Engine:
        """Return the engine itself; only this one's code is loaded."""
        if self.name is EngineName.UML:
            from apppot.machine.uml import UmlEngine

            return UmlEngine()
        if self.name is EngineName.XEN:
            from apppot.machine.xen import XenEngine

            return XenEngine()
        if self.name is EngineName.VIRTUALBOX:
            from apppot.machine.virtualbox import VirtualBoxEngine

            return VirtualBoxEngine()
        from apppot.machine.qemu import Accelerator, QemuEngine

        return QemuEngine(Accelerator(self.name))


def choose(wanted: EngineName | None = None, mode: UmlMode | None = None) -> Choice:
    """Return the engine that is wanted (None: by the setting run.engine), or the best there is.

    What works is tried once for each start of the host. Raises MachineError if nothing does. An
    engine that was named is never replaced by another one.
    """
    name = wanted or setting()
    if mode and name not in (EngineName.UML, EngineName.AUTO):
        raise UsageError(
            f"--uml-mode {mode} is for User-Mode Linux, and the engine is to be {name}",
            hint="leave one of the two options out",
        )
    if mode:
        return Choice(EngineName.UML, "its mode was asked for", mode)
    if name is EngineName.UML:
        return _uml()
    if name is EngineName.KVM:
        return _kvm()
    return _best() if name is EngineName.AUTO else Choice(name, "it was asked for")


def setting() -> EngineName:
    """Return the engine that the setting run.engine names; raises UsageError."""
    text = config.text("run.engine")
    try:
        return EngineName(text)
    except ValueError:
        raise UsageError(
            f"there is no engine '{text}' (APPPOT_ENGINE, or run.engine in a configuration file)",
            hint=f"choose one of {', '.join(EngineName)}",
        ) from None


def _kvm() -> Choice:
    from apppot.machine import virtual

    answer = virtual.kvm(thorough=True)
    if not answer.works:
        raise MachineError(
            f"the engine kvm does not work here: {answer.why}",
            hint="'apppot doctor kvm' tells more; --engine auto takes the best that works",
        )
    return Choice(EngineName.KVM, answer.why)


def _uml() -> Choice:
    from apppot.machine import probes

    known = probes.uml_mode()
    if known.mode is probes.Mode.NONE:
        raise MachineError(
            f"User-Mode Linux does not boot here: {known.reason}",
            hint="'apppot doctor' shows the rest",
        )
    return Choice(EngineName.UML, known.reason, UmlMode(known.mode))


def _best() -> Choice:
    """Return kvm if it works, else uml, else tcg."""
    from apppot.machine import virtual

    answer = virtual.kvm()
    if answer.works:
        return Choice(EngineName.KVM, answer.why)
    try:
        return _uml()
    except MachineError as error:
        if virtual.problem():
            raise
        return Choice(EngineName.TCG, f"neither kvm nor uml works here ({error.message})")
