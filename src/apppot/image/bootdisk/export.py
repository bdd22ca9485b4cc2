"""Write an image as a disk that boots, whole or not at all."""

from __future__ import annotations

import os
import re
from typing import IO, TYPE_CHECKING

from apppot import kit
from apppot.image import aside, changes, store
from apppot.image.bootdisk import convert, make, orders, ova
from apppot.image.bootdisk.convert import Format

if TYPE_CHECKING:
    from apppot.image.model import Image
    from apppot.kit import Kit


def export(name: str, form: Format, path: str, request: make.Request) -> int:
    """Write a disk with an image to a file; return its size. Raises AppPotError."""
    image = store.resolve(name)
    changes.check_target(path)
    if form is not Format.RAW:
        convert.program()  # before the long work
    tools = kit.find()
    with aside.explained(path), aside.whole(path) as file:
        if form is Format.RAW:
            make.make(image, tools, request, file.fileno())
        else:
            _convert(image, tools, request, form, file)
    return os.path.getsize(path)


def _convert(
    image: Image, tools: Kit, request: make.Request, form: Format, target: IO[bytes]
) -> None:
    identity = orders.names(f"{image.digest} {request!r}").disk
    with changes.temporary() as raw:
        size = make.make(image, tools, request, raw.fileno())
        if form is not Format.OVA:
            convert.convert(raw, target, form, identity)
            return
        with changes.temporary() as disk:
            convert.convert(raw, disk, Format.VMDK, identity)
            ova.write(ova.Machine(_title(image.name), size), disk, target)


def _title(name: str) -> str:
    """Return a machine's name for an image's: letters, digits, dots and hyphens."""
    return re.sub(r"[^A-Za-z0-9.-]+", "-", name).strip("-.") or "apppot"
