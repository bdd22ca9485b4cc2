"""Disks that boot: how long their export takes, and how big they are beside their layers."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from bench.launch import launch
from bench.series import CaseError, Section, take_turns_of

if TYPE_CHECKING:
    from bench.measures import Bench

FORMATS = ("raw", "qcow2", "vdi", "vhd", "vmdk", "ova")
LAYERS = 400e6  # bytes, which the goal is for


def disks(bench: Bench) -> list[Section]:
    """Export the image in all formats, in turn: that with the programs, if there is one."""
    image = bench.programs_image or bench.image
    layers = _layers(image)
    note = f"{layers / 1e6:.0f} MB of layers; on the disk, without holes"
    seconds = Section(f"Export of a disk, for {LAYERS / 1e6:.0f} MB", "s", digits=2)
    seconds.note = f"{layers / 1e6:.0f} MB of layers, and their time in proportion"
    size = Section("Size of an exported disk", "times its layers", note=note, digits=2)
    cases = {form: partial(_export, bench, image, form, layers) for form in FORMATS}
    take_turns_of([seconds, size], cases, max(3, bench.runs // 6), bench.said)
    for form in FORMATS:
        seconds.at_most(form, 5)
        size.at_most(form, 1.15)
    return [seconds, size]


def _layers(image: str) -> int:
    from apppot.errors import AppPotError
    from apppot.image import store

    try:
        return sum(layer.size for layer in store.resolve(image).layers)
    except AppPotError as error:
        raise CaseError(str(error)) from None


def _export(bench: Bench, image: str, form: str, layers: int) -> tuple[float, float]:
    path = os.path.join(bench.work, f"disk.{form}")
    try:
        run = launch([bench.apppot, "export", image, "--format", form, "--output", path])
        size = os.stat(path).st_blocks * 512
    finally:
        if os.path.exists(path):
            os.unlink(path)
    return run.seconds * LAYERS / layers, size / layers
