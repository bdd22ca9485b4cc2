"""Begin a run whose machine can be saved: what it cannot have, and what it has for that."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from apppot import kit
from apppot.checkpoint.folder import Folder
from apppot.checkpoint.manifest import ENGINES, Blob, Habits, Hardware, SavedImage
from apppot.checkpoint.saving import Saver
from apppot.errors import UsageError
from apppot.image import reference
from apppot.lean import replace
from apppot.machine import choice, cpumodel, virtual
from apppot.machine.cpumodel import CpuModel
from apppot.machine.model import EngineName, Saving
from apppot.machine.qemu import Accelerator, layout

if TYPE_CHECKING:
    from contextlib import ExitStack

    from apppot.agent.spec import CommandSpec
    from apppot.image.model import Image
    from apppot.machine.choice import Choice
    from apppot.machine.model import MachineSpec
    from apppot.machine.staging import Staged
    from apppot.request import RunRequest

_FOLDERS = "a shared folder is the host's, and cannot be saved with the machine"


def engine(request: RunRequest) -> Choice:
    """Return the engine for a machine that can be saved; raises UsageError or MachineError.

    The best that works may be `uml`, which cannot: unless that was named, it is another one.
    """
    _check(request)
    wanted = request.engine
    if wanted is None:
        wanted = choice.setting()
    if wanted in ENGINES:
        return choice.choose(wanted)
    if wanted is EngineName.AUTO or request.engine is None:
        kvm = virtual.kvm()
        if kvm.works:
            return choice.Choice(EngineName.KVM, kvm.why)
        why = f"--checkpoint-dir needs kvm or tcg, and kvm does not work here ({kvm.why})"
        return choice.Choice(EngineName.TCG, why)
    raise UsageError(
        f"a machine of the engine {wanted} cannot be saved",
        hint="--engine kvm can (and tcg, where there is no KVM); without --engine it is chosen",
    )


def _check(request: RunRequest) -> None:
    """Raise UsageError if a machine has what cannot be saved."""
    if not request.stage and (request.job_dir is not None or request.binds):
        raise UsageError(
            f"--checkpoint-dir: {_FOLDERS}; /job and those of --bind are shared",
            hint="--stage copies them into the machine, and what has changed out at the end;"
            " --no-job-dir leaves /job out",
        )
    for what, given, hint in (
        ("a raw disk cannot be saved", request.write or request.partition, "apppot import"),
        ("a raw disk cannot be saved", reference.is_path(request.image), ""),
        (
            "--changes: only an image of the store is found again where the machine goes on",
            request.changes,
            "make an image of the changes with 'apppot changes apply'",
        ),
        ("--save does not go with --checkpoint-dir", request.capture, "use 'apppot commit ID'"),
        ("--uml-mode: User-Mode Linux cannot be saved", request.mode, "leave it out"),
        ("a disk of changes cannot be saved", request.scratch_file, ""),
    ):
        if given:
            raise UsageError(what, hint=hint)


def prepare(
    request: RunRequest,
    image: Image,
    name: EngineName,
    spec: MachineSpec,
    command: CommandSpec,
    staged: Staged | None,
    stack: ExitStack,
) -> tuple[MachineSpec, Saver]:
    """Return the machine with what it needs to be saved, and what saves it; raises UsageError."""
    wish = request.checkpoint
    assert wish
    folder = Folder(wish.folder, stack)
    if folder.used:
        raise UsageError(
            f"{wish.folder} holds a checkpoint already",
            hint=f"'apppot restore {wish.folder}' goes on with it; to begin anew, remove it first",
        )
    accelerator = Accelerator(name)
    vendor, model = "", wish.cpu_model or CpuModel.V3
    if accelerator is Accelerator.KVM:
        host = cpumodel.processor()
        vendor, model = host.vendor, wish.cpu_model or cpumodel.best(host)
    spec = replace(spec, saving=Saving(cpumodel.qemu_model(model, vendor)))
    files = kit.find().manifest.files
    hardware = Hardware(
        engine=name,
        hostname=spec.hostname,
        cpus=spec.cpus,
        memory=spec.memory,
        scratch=spec.scratch,
        network=spec.network,
        host_loopback=spec.host_loopback,
        kernel_arguments=spec.kernel_arguments,
        user=spec.user,
        cpu_model=model,
        vendor=vendor,
        qemu="",
        machine_type="",
        layout=layout(spec),
        kernel=files[kit.PC_KERNEL].sha256,
        agent=files[kit.AGENT].sha256,
    )
    saved = SavedImage(
        image.name,
        image.digest,
        tuple(Blob(layer.digest, layer.size) for layer in image.layers),
    )
    habits = Habits(request.grace, wish.signal)
    brought = None
    if staged and staged.layer:
        layer = os.open(staged.layer, os.O_RDONLY | os.O_CLOEXEC)
        stack.callback(os.close, layer)
        brought = staged.shares, layer
    return spec, Saver(folder, saved, hardware, command, habits, brought)
