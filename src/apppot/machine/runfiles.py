"""A run's large files for hypervisors that want names, and the programs that start them."""

from __future__ import annotations

import os

from apppot import paths, process
from apppot.errors import MachineError
from apppot.kit import MKE2FS
from apppot.lean import TYPE_CHECKING
from apppot.machine import scratch as disks
from apppot.machine.engine import FIRST
from apppot.machine.undo import FOLDER

if TYPE_CHECKING:
    from collections.abc import Sequence

    from apppot.kit import Kit
    from apppot.machine.model import MachineSpec
    from apppot.machine.rundir import RunDir

SCRATCH = "scratch.raw"


def folder(run: RunDir) -> str:
    """Return the folder for a run's large files; undo.py removes it."""
    path = os.path.join(paths.scratch_dir(), FOLDER + run.ident)
    os.makedirs(path, mode=0o700, exist_ok=True)
    return path


def scratch(spec: MachineSpec, tools: Kit, run: RunDir) -> str:
    """Return the path of the machine's scratch disk, made or kept; '' if it is in memory.

    Raises MachineError.
    """
    if spec.scratch_file:
        return os.path.realpath(spec.scratch_file)
    if spec.scratch is None:
        return ""
    if spec.scratch < disks.SMALLEST:
        raise MachineError("the scratch disk is too small", hint="--scratch takes 1M or more")
    path = os.path.join(folder(run), SCRATCH)
    with open(path, "xb") as file:
        file.truncate(spec.scratch)
    process.run(
        disks.mke2fs_arguments(tools.file(MKE2FS), path),
        env=process.clean_environment({"MKE2FS_CONFIG": "/dev/null"}),
    )
    return path


def spawn(
    spec: MachineSpec, console: str, argv: Sequence[str], settings: dict[str, str] | None = None
) -> int:
    """Start the machine's main program, which holds the machine's locks; raises MachineError."""
    log = os.open(console, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
    try:
        held = {FIRST + n: descriptor for n, descriptor in enumerate(spec.held)}
        return process.spawn(
            argv,
            descriptors={0: nothing, 1: log, 2: log, **held},
            env=process.clean_environment(settings),
            deaf=True,
        )
    finally:
        os.close(log)
        os.close(nothing)
