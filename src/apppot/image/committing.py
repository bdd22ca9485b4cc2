"""Make an image of what a running machine has changed, or of an archive of changes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from apppot.control import run_builtin
from apppot.errors import MachineError, UsageError
from apppot.image import saving, store
from apppot.image.model import Image, ImageConfig, Layer
from apppot.machine import rundir

if TYPE_CHECKING:
    from collections.abc import Sequence

    from apppot.image.saving import Wanted


def from_machine(ident: str, wanted: Wanted) -> str:
    """Make an image of a running machine's changes; return what to tell. Raises AppPotError."""
    machine = rundir.select(ident)
    image = image_of(machine.facts)
    with saving.place(wanted, image.name) as place:
        archive_changes(machine.path, place.capture.excludes, place.capture.target)
        return saving.told(saving.keep(place, image, f"apppot commit {machine.ident}"))


def from_archive(base: str, path: str, wanted: Wanted) -> str:
    """Make an image of a tar archive of changes; return what to tell. Raises AppPotError."""
    image = store.resolve(base)
    try:
        archive = open(path, "rb")  # noqa: SIM115
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}") from error
    with archive, saving.place(wanted, image.name) as place:
        saved = saving.store_changes(
            place.name, image, archive, history="apppot commit --archive", replace_=place.replace
        )
    return saving.told(saved)


def image_of(facts: dict[str, Any]) -> Image:
    """Return the image that a machine was started from; raises MachineError."""
    if facts.get("disk"):
        raise MachineError(f"{facts['image']} is a disk: changes to it cannot be saved as an image")
    try:
        layers = tuple(
            Layer(digest, size, path, offset=offset, type=kind, content=content)
            for digest, size, path, offset, kind, content in facts["layers"]
        )
        return Image(facts["image"], facts["digest"], layers, ImageConfig())
    except (KeyError, TypeError, ValueError) as error:
        raise MachineError(
            "the machine was started by another version of AppPot, which does not say its layers"
        ) from error


def archive_changes(folder: str, excludes: Sequence[bytes], target: int) -> None:
    """Let a running machine's agent archive its changes to a descriptor; raises AppPotError."""
    words = ["archive", "changes", *map(os.fsdecode, excludes)]
    with open(os.devnull, "rb") as nothing:
        run_builtin(folder, words, nothing.fileno(), target)
