"""Load what a checkpoint's folder holds, and let the machine run only if none of it is damaged."""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

from apppot import paths, process
from apppot.checkpoint import manifest as manifests
from apppot.checkpoint.feeding import Feed
from apppot.checkpoint.folder import copy
from apppot.checkpoint.sums import Digest
from apppot.errors import MachineError
from apppot.lean import replace
from apppot.machine import cpumodel, scratch
from apppot.machine.model import Saving

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import ExitStack

    from apppot.checkpoint.folder import Folder
    from apppot.checkpoint.manifest import Disk, Manifest
    from apppot.machine.engine import Engine, Machine
    from apppot.machine.model import MachineSpec
    from apppot.machine.monitor import Monitor
    from apppot.machine.rundir import RunDir

_PATIENCE = 10.0  # seconds for the last of the memory, when QEMU has read it


class Loading:
    """What is saved, on its way to a machine: memory is unpacked, and disks are checked meanwhile.

    The folder stays as it is, so that the machine can be restored again if this run is killed.
    A signal that ends runs ends this, too, although signals are held.
    """

    def __init__(
        self, folder: Folder, saved: Manifest, layer: int | None, stack: ExitStack
    ) -> None:
        """Copy the disk, and begin to check it and the folders' `layer`; raises AppPotError."""
        self._folder, self._saved = folder.path, saved
        self._disk = None
        self._checks: list[tuple[Disk, Digest]] = []
        if saved.disk:
            with manifests.opened(folder.path, saved.disk) as file:
                self._disk = _copied(file.fileno(), stack)
            self._checks.append((saved.disk, Digest(self._disk, stack)))
        if saved.folders and layer is not None:
            self._checks.append((saved.folders.layer, Digest(layer, stack)))

    def start(self, engine: Engine, spec: MachineSpec, own: RunDir, stack: ExitStack) -> Machine:
        """Start a machine that stands still and loads its memory; raises AppPotError."""
        hardware = self._saved.hardware
        with contextlib.ExitStack() as given:
            with manifests.opened(self._folder, self._saved.memory) as file:
                self._memory = Feed(os.dup(file.fileno()), given)
            saving = Saving(
                cpumodel.qemu_model(hardware.cpu_model, hardware.vendor),
                hardware.machine_type,
                self._memory.reader,
                self._disk,
            )
            return engine.start(replace(spec, saving=saving), own, stack)

    def finish(self, machine: Machine, monitor: Monitor) -> None:
        """Wait until all is loaded and checked, and let the machine run; raises AppPotError."""
        with self._explained(machine):
            monitor.wait_until_loaded(self._memory.ended, _look)
        # QEMU may have all that it needs, before the end that tells damage.
        if not self._memory.ended.wait(_PATIENCE):
            raise self._damaged("there is more in it than QEMU has read")
        self._check_memory()
        for disk, digest in self._checks:
            self._check(disk, digest)
        with self._explained(machine):
            monitor.go_on()

    @contextlib.contextmanager
    def _explained(self, machine: Machine) -> Iterator[None]:
        try:
            yield
        except MachineError as error:
            self._check_memory()
            raise _not_loaded(error, machine.console_tail()) from error

    def _check_memory(self) -> None:
        if self._memory.trouble:
            raise self._damaged(self._memory.trouble)

    def _damaged(self, found: str) -> MachineError:
        return manifests.damage(self._folder, self._saved.memory, found)

    def _check(self, disk: Disk, digest: Digest) -> None:
        try:
            found = digest.result(_look)
        except OSError as error:
            raise manifests.damage(self._folder, disk, error.strerror or "") from error
        if found != disk.sha256:
            raise manifests.damage(self._folder, disk, "its digest is not the one that was saved")


def _look() -> None:
    process.check_signals("before the saved machine was loaded")


def _copied(source: int, stack: ExitStack) -> int:
    """Return the descriptor of a copy in the folder for scratch; raises MachineError."""
    folder = paths.scratch_dir()
    try:
        disk = scratch.nameless_file(folder)
        stack.callback(os.close, disk)
        copy(source, disk, _look)
    except OSError as error:
        raise MachineError(
            f"the saved disk cannot be copied to {folder}: {error.strerror}",
            hint="APPPOT_TMPDIR names another folder for that",
        ) from error
    return disk


def _not_loaded(error: MachineError, console: str) -> MachineError:
    lines = [line for line in console.splitlines() if line.strip()]
    last = f"; QEMU said last: {lines[-1].strip()}" if lines else ""
    return MachineError(
        f"the saved machine could not be loaded: {error.message}{last}",
        hint="was it saved by a newer QEMU, or is its file damaged?",
    )
