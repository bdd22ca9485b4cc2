"""What `apppot changes save` and `show` are about: an image, a running machine, or a file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from apppot.errors import ImageError, UsageError
from apppot.image import changefile, changes, pressing, store
from apppot.image.changes import Made, Subject
from apppot.machine import rundir

if TYPE_CHECKING:
    from collections.abc import Sequence

    from apppot.image.changefile import Base
    from apppot.image.model import Image


@dataclass(frozen=True)
class Saved:
    """A changes file that was written, its base, and what that was made from by changes, too."""

    made: Made
    base: str = ""
    lowest: str = ""


def save(
    path: str,
    subject: str,
    patterns: Sequence[str],
    *,
    base: str = "",
    method: str = "",
    level: int = 0,
) -> Saved:
    """Write the changes of an image or of a running machine to a file; raises AppPotError."""
    how = pressing.wanted(method, level)
    changes.check_target(path)
    running = [machine.ident for machine in rundir.machines()]
    if not subject and len(running) != 1:
        raise UsageError(
            f"which changes? {len(running)} machines are running",
            hint="name an image, or a machine of 'apppot ps'",
        )
    if not subject or any(ident.startswith(subject) for ident in running):
        if base:
            raise UsageError("--base is for images: a machine knows what it was started from")
        return Saved(changes.save_machine(path, subject or running[0], patterns, how))
    found = changes.of_image(subject, base)
    made = changes.save_image(path, found, patterns, how)
    return Saved(made, found.base.name, "" if base else lowest(found.base))


def lowest(base: Base) -> str:
    """Return the name of what a base was made from by changes, if it was, and so on; else ''.

    Only an image of a store counts, which --base can name.
    """
    name, image = "", changes.find_base(base)
    while image and (image := _below(image)):
        name = image.name
    return name


def _below(image: Image) -> Image | None:
    try:
        found = changes.find_base(changes.recorded_base(image))
    except ImageError:
        return None
    return found if found and len(found.layers) < len(image.layers) else None


def shown(name: str, base: str = "") -> tuple[Subject, dict[str, Any]]:
    """Return the changes in a file or an image, and what is known of them, for JSON.

    A file's base may be in no store: then there is nothing below. Raises AppPotError.
    """
    if not (os.path.exists(name) or "/" in name[:2]):
        subject = changes.of_image(name, base)
        return subject, {"image": subject.name, "base": _base(subject)}
    found = changefile.read(name)
    below = store.resolve(base) if base else changes.find_base(found.base)
    if base and below and changes.base_of(below).chain != found.base.chain:
        raise changefile.other_base(found, below.name, changes.base_of(below).chain)
    layer = {
        "digest": found.layer.digest,
        "content": found.layer.content,
        "size": found.layer.size,
    }
    subject = Subject(name, found.base, below.layers if below else (), (found.layer,), found.config)
    if not below and found.base.layers < 1:
        raise ImageError(f"the changes in {name} have no base")
    about = {
        "file": name,
        "size": os.path.getsize(name),
        "created": found.created,
        "tool": found.tool,
        "layer": layer,
        "base": _base(subject),
    }
    return subject, about


def _base(subject: Subject) -> dict[str, Any]:
    base = subject.base
    return {
        "name": base.name,
        "digest": base.digest,
        "chain": base.chain,
        "layers": base.layers,
        "found": bool(subject.below),
    }
