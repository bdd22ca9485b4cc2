"""Run one payload in one appliance: image, machine and agent brought together."""

from __future__ import annotations

import contextlib
import os
import time

from apppot import process
from apppot.agent import terminal
from apppot.agent.spec import CommandSpec, GuestUser
from apppot.errors import AppPotError, UsageError
from apppot.identity import Identity, identity
from apppot.image import reference, store
from apppot.image.model import DEFAULT_PATH
from apppot.lean import TYPE_CHECKING, dataclass, replace
from apppot.machine import limits, placement, rundir
from apppot.machine.choice import choose
from apppot.machine.model import EngineName, LayerFile, MachineSpec, Share, UmlMode
from apppot.machine.rundir import RunDir

if TYPE_CHECKING:
    from collections.abc import Mapping

    from apppot.agent.preparing import Preparer
    from apppot.agent.session import Session
    from apppot.image.model import Image, ImageConfig, Layer
    from apppot.image.saving import Wanted
    from apppot.machine.choice import Choice
    from apppot.outcome import Outcome
    from apppot.request import RunRequest

JOB = b"/job"


@dataclass(frozen=True)
class Finished:
    """A run that is over: what ran, when (seconds since 1970), and how it ended."""

    image: Image
    engine: EngineName
    machine: MachineSpec
    command: CommandSpec
    began: float
    ended: float
    outcome: Outcome


def _who(request: RunRequest) -> Identity:
    own = request.image_user
    return Identity(0, 0, own, "", image_name=own) if own else identity(request.user)


def environment(
    who: Identity, config: ImageConfig, given: tuple[bytes, ...], term: str | None
) -> tuple[bytes, ...]:
    """Return the payload's whole environment: clean, then the image's, then the user's."""
    settings: dict[bytes, bytes] = {b"PATH": DEFAULT_PATH.encode()}
    if not who.image_name:
        settings |= {
            b"HOME": who.home.encode(),
            b"USER": who.name.encode(),
            b"LOGNAME": who.name.encode(),
        }
    if term:
        settings[b"TERM"] = os.fsencode(term)
    for setting in (*(os.fsencode(text) for text in config.env), *given):
        name, _, value = setting.partition(b"=")
        settings[name] = value
    return tuple(name + b"=" + value for name, value in settings.items())


def payload(request: RunRequest, config: ImageConfig) -> tuple[bytes, ...]:
    """Return the argument vector: the user's, else the image's, else a shell.

    The image's command is meant for the image's entry point, and for no other.
    """
    if request.builtin:
        return (request.builtin, *request.command)
    entry, own = request.entrypoint, request.command
    if entry is None:
        entry = tuple(map(os.fsencode, config.entrypoint))
        own = own or tuple(map(os.fsencode, config.cmd))
    return (*entry, *own) or (b"/bin/sh",)


def shares(request: RunRequest) -> tuple[Share, ...]:
    """Return the folders to share; raises UsageError if one is not there or named twice."""
    wanted = list(request.binds)
    if request.job_dir is not None:
        wanted.insert(0, Share(_folder(request.job_dir), JOB))
    seen: set[bytes] = set()
    for share in wanted:
        target = os.path.normpath(share.target)
        if target in seen:
            raise UsageError(f"two folders are to appear at {os.fsdecode(target)} in the guest")
        if target == b"/":
            raise UsageError("a shared folder cannot take the place of the guest's /")
        seen.add(target)
    return tuple(wanted)


def _folder(path: str) -> str:
    if not path:  # an unset variable of a script, which realpath takes for the current folder
        raise UsageError("the job directory has an empty name", hint="--job-dir . is this folder")
    try:
        found = os.path.realpath(path, strict=True)
    except OSError as error:
        raise UsageError(
            f"the job directory {path} cannot be used: {error.strerror}",
            hint="name another with --job-dir, or none with --no-job-dir",
        ) from error
    if not os.path.isdir(found):
        raise UsageError(f"the job directory {path} is not a folder")
    return found


def machine_spec(request: RunRequest, image: Image, who: Identity, choice: Choice) -> MachineSpec:
    """Return the machine for a request; raises AppPotError if this host cannot give it."""
    allowed = limits.allowed_cpus()
    if request.cpus > len(allowed):
        terminal.tell(f"{request.cpus} virtual CPUs share {len(allowed)} CPUs of the host")
    memory = request.memory
    if memory is None:
        limit = limits.memory_limit()
        memory = limits.auto_memory(limit)
        if request.verbose:
            terminal.tell(f"memory {limits.show_size(memory)}, from {limit.source}")
    mode = choice.mode or UmlMode.SECCOMP
    if mode is UmlMode.PTRACE and request.cpus > 1:
        raise UsageError(
            f"--cpus {request.cpus}: several virtual CPUs need the seccomp mode of User-Mode Linux",
            hint="leave --uml-mode out, or see with 'apppot doctor' why seccomp does not work here",
        )
    guest_user = None
    if who.uid and not who.image_name:
        guest_user = GuestUser(who.uid, who.gid, who.name, who.home)
    return MachineSpec(
        hostname=request.hostname,
        layers=tuple(map(_layer_file, image.layers)),
        cpus=request.cpus,
        host_cpus=placement.choose(allowed, request.cpus)
        if choice.name is EngineName.UML
        else allowed,
        memory=memory,
        mode=mode,
        scratch=request.scratch,
        scratch_file=request.scratch_file,
        held=request.held,
        write_layer=request.write,
        shares=shares(request),
        network=request.network,
        host_loopback=request.host_loopback,
        user=guest_user,
        kernel_arguments=request.kernel_arguments,
    )


def _layer_file(layer: Layer) -> LayerFile:
    partition = layer.size if layer.type and layer.offset else 0
    return LayerFile(layer.path, layer.offset, layer.type, partition)


def command_spec(
    request: RunRequest, image: Image, who: Identity, environ: Mapping[str, str]
) -> CommandSpec:
    """Return the command for a request."""
    size = terminal.size(request.stdio[0]) if request.terminal else None
    term = environ.get("TERM", "linux") if request.terminal else None
    directory = request.workdir
    if not directory and request.job_dir is not None:
        directory = JOB
    directory = directory or os.fsencode(image.config.working_dir) or b"/"
    return CommandSpec(
        arguments=payload(request, image.config),
        environment=environment(who, image.config, request.environment, term),
        directory=directory,
        uid=who.uid,
        gid=who.gid,
        groups=(who.gid,) if who.uid else (),
        terminal=size,
        umask=_umask(),
        user=who.image_name,
        builtin=request.builtin,
    )


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def run_for_user(
    request: RunRequest,
    report_path: str | None,
    save: Wanted | None = None,
    image: Image | None = None,
) -> int:
    """Run a payload, tell the user what went wrong, write the report; return the exit status.

    With `save` the changes are kept as an image; `image` is as for `run`. Signals are held for
    good: one that comes after the machine's end changes nothing any more.
    """
    process.hold_signals()
    with contextlib.ExitStack() as stack:
        file = None
        if report_path:
            from apppot.report import ReportFile

            file = stack.enter_context(ReportFile(report_path))
        place = None
        if save:
            from apppot.image import saving

            place = stack.enter_context(saving.place(save, request.image))
            request = replace(request, capture=place.capture)
        finished = run(request, image)
        outcome = finished.outcome
        tell_end(outcome)
        if file:
            file.write(finished)
        if place and outcome.captured:
            terminal.tell(saving.keep_and_tell(place, finished))
        elif place and not outcome.message:
            terminal.tell(f"nothing was saved as {place.name}: the payload was ended by force")
    return int(outcome.status)


def tell_end(outcome: Outcome) -> None:
    """Tell the user what a run's exit status does not tell."""
    if outcome.message:
        terminal.tell(AppPotError(outcome.message, hint=outcome.hint))
    for note in outcome.notes:
        terminal.tell(note)


def run(request: RunRequest, image: Image | None = None) -> Finished:
    """Run a payload to its end; raises AppPotError if it could not be run.

    With `image`, that one is used, and not the one that the request names.
    """
    began = time.time()
    with contextlib.ExitStack() as stack:
        stack.enter_context(process.signals_held())  # until the driver's loop can act on them
        if request.terminal:
            terminal.find()
        who = request.who or _who(request)
        if image is None and (
            reference.is_path(request.image) or request.write or request.partition
        ):
            from apppot import rawdisk

            request, image = rawdisk.open_image(request, stack)
        image = image or store.resolve(request.image)
        if request.changes:
            from apppot.image import changefile

            image = changefile.stacked(image, request.changes)
        if request.checkpoint:
            from apppot.checkpoint import beginning

            choice = beginning.engine(request)
        else:
            choice = choose(request.engine, request.mode)
        if request.verbose:
            terminal.tell(choice)
        spec = machine_spec(request, image, who, choice)
        command = command_spec(request, image, who, os.environ)
        rundir.sweep()
        engine = choice.engine()
        folder = stack.enter_context(RunDir.make())
        capture, staged = request.capture, None
        if choice.stages or request.stage:
            from apppot.machine.staging import Staged

            with process.signals_heeded("before the payload had started"):
                staged = Staged(spec, folder, capture, stack)
            spec, capture = staged.spec, staged.capture
        saver = None
        if request.checkpoint:
            spec, saver = beginning.prepare(
                request, image, choice.name, spec, command, staged, stack
            )
        machine = engine.start(spec, folder, stack)
        # What follows is loaded while the kernel boots, and so costs no time.
        from apppot.agent.loop import Loop
        from apppot.agent.session import Session
        from apppot.drive import Driver

        loop = Loop()
        session = Session(loop, machine.channel)
        stack.callback(session.close)
        driver = Driver(
            engine,
            machine,
            session,
            command,
            stdio=request.stdio,
            time_limit=request.time_limit,
            grace=request.grace,
            ending=request.ending,
            preparing=_preparer(request, session),
            signals=request.serving is None,
            capture=capture,
            saver=saver,
            notice=terminal.tell if request.verbose else lambda _: None,
        )
        disk = reference.is_path(request.image)
        folder.record(facts(image, choice, spec, command, began, disk, request.job_dir))
        outcome = driver.drive(stack, host_cpus=spec.host_cpus)
        if staged:
            outcome = staged.bring_out(outcome)
    return Finished(image, choice.name, spec, command, began, time.time(), outcome)


def _preparer(request: RunRequest, session: Session) -> Preparer | None:
    if request.serving:
        return request.serving(session)
    if not request.before:
        return None
    from apppot.agent.preparing import Preparing

    return Preparing(session, request.before)


def facts(
    image: Image,
    choice: Choice,
    spec: MachineSpec,
    command: CommandSpec,
    began: float,
    disk: bool = False,
    job_dir: str | None = None,
) -> dict[str, object]:
    """Return what `apppot ps` shows of a machine, and what `exec` needs to know of it."""
    return {
        "pid": os.getpid(),
        "image": image.name,
        "disk": disk,
        "digest": image.digest,
        "command": [os.fsdecode(word) for word in command.arguments],
        "environment": [os.fsdecode(setting) for setting in command.environment],
        "directory": os.fsdecode(command.directory),
        "uid": command.uid,
        "gid": command.gid,
        "user": command.user,
        "umask": command.umask,
        "started": began,
        "engine": str(choice.name),
        "cpus": spec.cpus,
        "memory": spec.memory,
        "job_dir": job_dir and os.path.abspath(job_dir),
        "layers": [
            [layer.digest, layer.size, layer.path, layer.offset, layer.type, layer.content]
            for layer in image.layers
        ],
    }
