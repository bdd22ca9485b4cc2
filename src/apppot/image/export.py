"""Write an image for other programs: a tar archive, OCI, SquashFS, SIF, or one EROFS file."""

from __future__ import annotations

import os
import tempfile
from contextlib import contextmanager
from enum import StrEnum
from typing import IO, TYPE_CHECKING

from apppot import paths, process, worker
from apppot.image import aside, changes, erofs, saving, sif, store, tarread, tarstream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from apppot.image.model import Image


class Format(StrEnum):
    """What an image can be exported as."""

    TAR = "tar"
    OCI = "oci"
    SQUASHFS = "squashfs"
    SIF = "sif"
    EROFS = "erofs"


def export(name: str, form: Format, path: str) -> int:
    """Write an image to a file, whole or not at all; return its size. Raises AppPotError."""
    image = store.resolve(name)
    if path != aside.STDOUT:
        changes.check_target(path)
    if form is Format.OCI:
        from apppot.image import loading

        loading.save([name], path)
        return os.path.getsize(path) if path != aside.STDOUT else 0
    if form in (Format.SQUASHFS, Format.SIF):
        _squash_program()  # before the long work
    beside = os.path.dirname(os.path.abspath(path))
    folder = paths.scratch_dir() if path == aside.STDOUT else beside
    with (
        aside.target(path, mode=0o777 if form is Format.SIF else 0o666) as file,
        merged(image) as archive,
    ):
        if form is Format.TAR:
            tarstream.canonical(archive, file)
        elif form is Format.EROFS:
            erofs.make(archive, aside.path_of(file))
        elif form is Format.SQUASHFS:
            _squash(archive, aside.path_of(file), folder)
        else:
            with tempfile.TemporaryFile(dir=folder) as inner:
                _squash(archive, aside.path_of(inner), folder)
                sif.write(aside.path_of(inner), aside.path_of(file), created=saving.now())
        return os.path.getsize(aside.path_of(file))


@contextmanager
def merged(image: Image) -> Iterator[IO[bytes]]:
    """Give an archive of all layers together; raises AppPotError."""
    with changes.temporary() as archive:
        worker.archive(image.layers, ("tree", "."), archive.fileno())
        archive.seek(0)
        yield archive


def _squash_program() -> str:
    return process.find_program(
        "sqfstar", hint="install squashfs-tools 4.5 or newer, or export as tar"
    )


def _squash(archive: IO[bytes], target: str, folder: str) -> None:
    """Write a SquashFS file from an archive; the same files give the same bytes."""
    with tempfile.TemporaryFile(dir=folder) as plain:
        tarstream.canonical(archive, plain)
        root = _root_options(plain)
        plain.seek(0)
        process.run(
            [
                _squash_program(),
                *root,
                *("-comp", "zstd", "-mkfs-time", "0", "-quiet", "-no-progress", "-force"),
                *("-processors", str(len(os.sched_getaffinity(0)))),
                target,
            ],
            stdin=plain,
        )


def _root_options(archive: IO[bytes]) -> list[str]:
    """Return sqfstar's options for the topmost folder: it does not take these from the archive.

    The time is the present one nevertheless (as of 4.5.1).
    """
    _, root = next(tarread.entries(tarread.Source(archive)))
    found = {"mode": f"{root.mode:o}", "time": root.mtime, "uid": root.uid, "gid": root.gid}
    return [word for key, value in found.items() for word in (f"-root-{key}", str(value))]
