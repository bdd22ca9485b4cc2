"""Run a raw disk: lock it, find its root, and give it to the machine as its only layer."""

from __future__ import annotations

import os

from apppot.agent import terminal
from apppot.errors import UsageError
from apppot.image import changefile, disks, reference
from apppot.lean import TYPE_CHECKING, replace

if TYPE_CHECKING:
    from contextlib import ExitStack

    from apppot.image.model import Image
    from apppot.request import RunRequest


def open_image(request: RunRequest, stack: ExitStack) -> tuple[RunRequest, Image]:
    """Return a request that holds the disk's lock, and the disk as an image.

    Raises UsageError or ImageError.
    """
    path = request.image
    if not reference.is_path(path):
        raise UsageError(
            f"--write and --partition are for raw disks, and '{path}' is the name of an image",
            hint="the path of a disk begins with / or ./",
        )
    if changefile.is_changes(path):
        raise UsageError(
            f"{path} holds changes to an image, not a whole one",
            hint=f"apppot run --changes {path} IMAGE; 'apppot changes show {path}' names the image",
        )
    if request.write and request.scratch is not None:
        raise UsageError("--write and --scratch exclude each other: the disk itself is written")
    if request.capture:
        raise UsageError(
            f"changes to the raw disk {path} cannot be saved: a disk has no digest to name it by",
            hint="keep them in the disk with --write, or make an image of it with 'apppot import'",
        )
    held = request.held
    if not _has_lock(request):
        lock = disks.lock(path, write=request.write)
        stack.callback(os.close, lock)
        held = (*held, lock)
    tell = terminal.tell if request.verbose else None
    image = disks.resolve(path, request.partition, tell)
    if request.write and image.layers[0].type != "ext4":
        raise UsageError(
            f"--write: {path} has a file system that is never written ({image.layers[0].type})"
        )
    return replace(request, held=held), image


def _has_lock(request: RunRequest) -> bool:
    """Tell whether the caller has locked the disk: one more lock would wait for that one."""
    try:
        disk = os.stat(request.image)
    except OSError:
        return False
    return any(os.path.samestat(os.fstat(each), disk) for each in request.held)
