"""Go on with a saved machine: check that it can run here, start it, and be its launcher."""

from __future__ import annotations

import contextlib
import os
import re
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from apppot import process
from apppot.agent import standstill, terminal
from apppot.agent.loop import Loop
from apppot.checkpoint import manifest as manifests
from apppot.checkpoint.folder import Folder
from apppot.checkpoint.loading import Loading
from apppot.checkpoint.manifest import Habits
from apppot.checkpoint.saving import Saver
from apppot.drive import Driver
from apppot.errors import AppPotError, MachineError, UsageError
from apppot.image import store
from apppot.lean import replace
from apppot.machine import choice, cpumodel, limits, rundir, virtual
from apppot.machine.model import EngineName, LayerFile, MachineSpec
from apppot.machine.monitor import Monitor
from apppot.machine.qemu import layout
from apppot.machine.rundir import RunDir
from apppot.run import JOB, Finished, facts, tell_end

if TYPE_CHECKING:
    from apppot.checkpoint.manifest import Hardware, Manifest
    from apppot.image.model import Image
    from apppot.machine.model import Share


@dataclass(frozen=True)
class RestoreRequest:
    """What `apppot restore` was asked for; None: as the run that was saved."""

    folder: str
    signal: int | None = None
    grace: float | None = None
    time_limit: float | None = None
    verbose: bool = False
    job_dir: str | None = None  # the folder for the changes of /job


def restore_for_user(request: RestoreRequest, report_path: str | None) -> int:
    """Go on with a machine, tell the user what went wrong, and return the exit status."""
    process.hold_signals()
    with contextlib.ExitStack() as stack:
        file = None
        if report_path:
            from apppot.report import ReportFile

            file = stack.enter_context(ReportFile(report_path))
        finished = restore(request)
        tell_end(finished.outcome)
        if file:
            file.write(finished)
    return int(finished.outcome.status)


def restore(request: RestoreRequest) -> Finished:
    """Go on with a machine to its end; raises AppPotError if it cannot run here."""
    began = time.time()
    with contextlib.ExitStack() as stack:
        stack.enter_context(process.signals_held())
        folder = Folder(request.folder, stack, new=False)
        saved = manifests.read(folder.path)
        if saved.command.terminal:
            _need_terminal()
        image = find_image(saved)
        chosen = choice.choose(saved.hardware.engine)
        check_host(saved.hardware)
        if request.verbose:
            terminal.tell(
                f"saved on {saved.host}, {time.ctime(saved.saved)}, with the engine {chosen.name}"
            )
        spec = machine_spec(saved, image, folder)
        staged = layer = None
        if not saved.folders and request.job_dir is not None:
            raise UsageError(
                "--job-dir: this machine was given no folders, whose changes could be put there",
                hint="leave it out; it is for runs with --stage",
            )
        if saved.folders:
            from apppot.machine.staging import Staged

            shares = own_shares(saved.folders.shares, request.job_dir)
            staged = Staged.again(spec, shares, stack)
            layer = os.open(spec.layers[-1].path, os.O_RDONLY | os.O_CLOEXEC)
            stack.callback(os.close, layer)
        habits = Habits(
            saved.habits.grace if request.grace is None else request.grace,
            request.signal or saved.habits.signal,
        )
        rundir.sweep()
        folder.sweep(saved)
        engine = chosen.engine()
        own = stack.enter_context(RunDir.make())
        loading = Loading(folder, saved, layer, stack)
        machine = loading.start(engine, spec, own, stack)
        monitor = stack.enter_context(Monitor(machine.monitor or 0))
        loading.finish(machine, monitor)
        session = standstill.resume(Loop(), machine.channel, saved.conversation)
        stack.callback(session.close)
        brought = (staged.shares, layer) if staged and layer is not None else None
        saver = Saver(folder, saved.image, saved.hardware, saved.command, habits, brought)
        saver.continues(monitor, saved)
        driver = Driver(
            engine,
            machine,
            session,
            saved.command,
            stdio=(0, 1, 2),
            time_limit=request.time_limit,
            grace=habits.grace,
            capture=staged.capture if staged else None,
            saver=saver,
            resumed=saved.conversation.relay,
            notice=terminal.tell if request.verbose else lambda _: None,
        )
        own.record(facts(image, chosen, spec, saved.command, began))
        outcome = driver.drive(stack, host_cpus=spec.host_cpus)
        if staged:
            outcome = staged.bring_out(outcome)
    return Finished(image, chosen.name, spec, saved.command, began, time.time(), outcome)


def _need_terminal() -> None:
    """Raise UsageError if standard input is no terminal."""
    try:
        terminal.find()
    except UsageError as error:
        raise UsageError(
            "the payload has a terminal (-t), and goes on on that of 'restore'; here is none",
            hint="run it from a terminal (ssh -t, srun --pty); script(1) makes one for a job",
        ) from error


def find_image(saved: Manifest) -> Image:
    """Return the image whose layers are the machine's disks; raises AppPotError."""
    try:
        image = store.resolve(saved.image.digest)
    except AppPotError as error:
        raise MachineError(
            f"the image under the saved machine is not in a store here: {saved.image.name}"
            f" ({saved.image.digest})",
            hint=f"fetch just that one: apppot pull, or apppot load, {saved.image.name}",
        ) from error
    found = tuple((layer.digest, layer.size) for layer in image.layers)
    wanted = tuple((layer.name, layer.size) for layer in saved.image.layers)
    if found != wanted:
        raise MachineError(
            f"the layers of {saved.image.name} were made anew since the machine was saved",
            hint="restore it where the same layers are: "
            + ", ".join(digest for digest, _ in wanted if digest not in dict(found)),
        )
    return image


def check_host(hardware: Hardware) -> None:
    """Raise MachineError if this host's QEMU or processor cannot go on with a machine."""
    here = qemu_version()
    if numbers(here) < numbers(hardware.qemu):
        raise MachineError(
            f"the machine was saved by QEMU {hardware.qemu}, and the one here is older: {here}",
            hint=f"restore it where QEMU is {hardware.qemu} or newer",
        )
    if hardware.engine is not EngineName.KVM:
        return
    processor = cpumodel.processor()
    missing = cpumodel.missing(hardware.cpu_model, processor)
    if missing:
        raise MachineError(
            f"this processor does not have all of {hardware.cpu_model}: {', '.join(missing)}",
            hint="restore it on a newer one; --cpu-model x86-64-v2 makes machines for old ones",
        )
    if processor.vendor != hardware.vendor:
        raise MachineError(
            f"the machine ran on a processor of {hardware.vendor}, and this one is of"
            f" {processor.vendor}: its kernel is set up for the other",
            hint="restore it on a computer with a processor of the same vendor",
        )


def qemu_version() -> str:
    """Return the version of this host's QEMU."""
    said = process.run([virtual.program(), "--version"]).stdout.decode("utf-8", "replace")
    found = re.search(r"version (\d+\.\d+\.\d+)", said)
    return found[1] if found else "0"


def numbers(version: str) -> tuple[int, ...]:
    """Return a version as it is compared; a later correction is no older version."""
    return tuple(int(part) for part in version.split(".")[:2])


def own_shares(shares: tuple[Share, ...], job_dir: str | None) -> tuple[Share, ...]:
    """Return where changes of folders are put here; raises UsageError if one is not there."""
    if job_dir is not None:
        path = os.path.realpath(job_dir)
        shares = tuple(
            replace(each, source=path) if each.target == JOB else each for each in shares
        )
    for each in shares:
        if not each.read_only and not os.path.exists(each.source):
            raise UsageError(
                f"changes of {os.fsdecode(each.target)} are to be put into {each.source},"
                " which is not there",
                hint="make it; or name another folder for /job with --job-dir",
            )
    return shares


def machine_spec(saved: Manifest, image: Image, folder: Folder) -> MachineSpec:
    """Return the machine; raises MachineError if this AppPot would make another one of it."""
    hardware = saved.hardware
    layers = [layer.path for layer in image.layers]
    if saved.folders:
        layers.append(os.path.join(folder.path, saved.folders.layer.name))
    spec = MachineSpec(
        hostname=hardware.hostname,
        layers=tuple(map(LayerFile, layers)),
        cpus=hardware.cpus,
        host_cpus=tuple(limits.allowed_cpus()),
        memory=hardware.memory,
        scratch=hardware.scratch,
        network=hardware.network,
        host_loopback=hardware.host_loopback,
        user=hardware.user,
        kernel_arguments=hardware.kernel_arguments,
    )
    if layout(spec) != hardware.layout:
        raise MachineError(
            f"the machine was saved by AppPot {saved.apppot}, whose machines have other devices",
            hint="restore it with that version",
        )
    return spec
