"""Do a step's work in a machine: run a command, put files in place, read files of another stage."""

from __future__ import annotations

import os
import signal
from contextlib import ExitStack
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from apppot import worker
from apppot.capturing import Capture
from apppot.errors import ImageError, MachineError
from apppot.image import erofs
from apppot.image.build import packing
from apppot.image.model import Image, ImageConfig, Layer
from apppot.lean import replace
from apppot.machine.model import EngineName, Network, Share
from apppot.request import RunRequest
from apppot.run import run as run_machine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from apppot.image.build.model import Run
    from apppot.outcome import Outcome

DISK = 64 << 30  # takes space only as it fills
MEMORY = 1 << 30
EMPTY = 1024  # an archive without entries: two blocks of zeros
# A build that is interrupted ends, whatever its command makes of that: in this time, in seconds.
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)
GRACE = 5.0
_LITTLE = 64 << 20
_ROOT = ("", "0", "root", "0:0", "root:root", "0:root", "root:0")
# The image's best shell, with the step's own environment, which a login shell would change.
DEBUG_SHELL = ("/bin/sh", "-c", "if command -v bash >/dev/null; then exec bash; fi; exec sh")


@dataclass(frozen=True)
class Machine:
    """What machines for RUN are like; None: as much as is allowed."""

    cpus: int = 1
    memory: int | None = MEMORY
    scratch: int = DISK
    network: Network = Network.USER
    engine: EngineName | None = None


def numbered(owner: str) -> str:
    """Return an owner as the agent looks it up: of a bare number the group is the same."""
    return f"{owner}:{owner}" if owner.isdigit() else owner


def stacked(layers: Sequence[Layer], stack: ExitStack) -> tuple[Layer, ...]:
    """Return layers for a machine, which cannot do without any: an empty one stands for none."""
    if layers:
        return tuple(layers)
    archive = stack.enter_context(packing.temporary())
    packing.pack((), archive)
    image = stack.enter_context(packing.named())
    erofs.make(archive, image.name)
    return (Layer("", os.path.getsize(image.name), image.name),)


def run(
    layers: Sequence[Layer],
    step: Run,
    machine: Machine,
    *,
    name: str,
    output: int,
    changes: IO[bytes],
) -> Outcome:
    """Run a command of the build; `changes` gets what it has changed, also if it has failed."""
    with ExitStack() as stack, open(os.devnull, "rb") as nothing:
        request = _request(
            step, machine, stack, stdio=(nothing.fileno(), output, output), name=name
        )
        request = replace(request, capture=Capture(changes.fileno()))
        image = Image(name, "", stacked(layers, stack), ImageConfig())
        return run_machine(request, image).outcome


def shell(layers: Sequence[Layer], step: Run, machine: Machine, *, name: str) -> Outcome:
    """Open a shell in a machine that is like that of a step."""
    with ExitStack() as stack:
        request = _request(step, machine, stack, stdio=(0, 1, 2), name=name)
        command = tuple(map(os.fsencode, DEBUG_SHELL))
        request = replace(request, command=command, terminal=True)
        image = Image(name, "", stacked(layers, stack), ImageConfig())
        return run_machine(request, image).outcome


def _request(
    step: Run, machine: Machine, stack: ExitStack, *, stdio: tuple[int, int, int], name: str
) -> RunRequest:
    binds: tuple[Share, ...] = ()
    if step.script:
        file = stack.enter_context(packing.named())
        file.write(step.script.content.encode("utf-8", "surrogateescape"))
        file.flush()
        os.chmod(file.name, 0o755)  # noqa: S103  other users of the machine execute it
        binds = (Share(file.name, os.fsencode(step.argv[0]), read_only=True),)
    offline = machine.network is Network.NONE or not step.network
    pairs = (*step.proxies, *step.environment)
    own = "" if step.user in _ROOT else step.user
    return RunRequest(
        image=name,
        command=tuple(os.fsencode(word) for word in step.argv),
        cpus=machine.cpus,
        memory=machine.memory,
        scratch=machine.scratch,
        job_dir=None,
        binds=binds,
        environment=tuple(os.fsencode(f"{key}={value}") for key, value in pairs),
        network=Network.NONE if offline else Network.USER,
        engine=machine.engine,
        user="root",
        image_user=own,
        grace=GRACE,
        ending=ENDING,
        workdir=os.fsencode(step.directory),
        hostname="build",
        stdio=stdio,
    )


def unpack(
    layers: Sequence[Layer],
    archive: IO[bytes],
    folder: str,
    *,
    owner: str = "",
    file: bool = False,
    changes: IO[bytes],
) -> None:
    """Put an archive's files into place; `changes` gets what has been changed by it."""
    size = archive.seek(0, os.SEEK_END)
    archive.seek(0)
    with ExitStack() as stack:
        worker.unpack(
            stacked(layers, stack),
            archive.fileno(),
            folder,
            owner=numbered(owner),
            file=file,
            target=changes.fileno(),
            scratch=2 * size + (1 << 30) if size > _LITTLE else None,
        )


def find(
    layers: Sequence[Layer], pattern: str, title: str, stack: ExitStack
) -> list[packing.Match]:
    """Return the files of another file system that match a pattern; raises ImageError."""
    relative = pattern.lstrip("/").rstrip("/") or "."
    found = _archived(layers, relative, pattern, title, stack)
    return [_followed(layers, match, pattern, title, stack) for match in found]


def _archived(
    layers: Sequence[Layer], relative: str, pattern: str, title: str, stack: ExitStack
) -> list[packing.Match]:
    archive = stack.enter_context(packing.temporary())
    if not layers:
        raise ImageError(f"{pattern} is not in {title}, which is empty")
    try:
        worker.archive(layers, ("tree", relative), archive.fileno())
    except MachineError as error:
        if "cannot find" in error.message:
            raise ImageError(f"{pattern} is not in {title}") from error
        raise
    return packing.matches(archive)


def _followed(
    layers: Sequence[Layer], match: packing.Match, pattern: str, title: str, stack: ExitStack
) -> packing.Match:
    """Return what a link that was found leads to, under the link's own name."""
    first = match
    for _ in range(40):
        if not match.link:
            if match is first:
                return match
            return packing.Match(match.archive, match.top, first.name, match.folder)
        path = os.path.join("/", os.path.dirname(match.top), match.link).lstrip("/")
        escaped = "".join("\\" + char if char in "*?[\\" else char for char in path)
        (match,) = _archived(layers, escaped, f"{pattern} -> {match.link}", title, stack)
    raise ImageError(f"{pattern} in {title} leads through too many links")
