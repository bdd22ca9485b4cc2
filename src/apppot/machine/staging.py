"""Folders of the host, for engines without shared folders: brought in as a layer, changes out.

Before the machine starts, all shared folders become one layer above the image's. After the
payload's end, what has been changed below the writable ones is archived by the agent and put into
the host's folders.
"""

from __future__ import annotations

import contextlib
import errno
import os
import tarfile
import tempfile
from dataclasses import replace
from typing import TYPE_CHECKING

from apppot import paths
from apppot.capturing import Capture
from apppot.errors import MachineError, UsageError
from apppot.holes import Sparse
from apppot.machine import putting, runfiles, scratch, undo
from apppot.machine.model import LayerFile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import ExitStack

    from apppot.machine.model import MachineSpec, Share
    from apppot.machine.rundir import RunDir
    from apppot.outcome import Outcome

LAYER = "folders.erofs"
_DELETED = ".wh."
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class Staged:
    """A machine's folders: `spec` is the machine without shares, `capture` what to archive."""

    def __init__(
        self, spec: MachineSpec, run: RunDir, capture: Capture | None, stack: ExitStack
    ) -> None:
        """Make the layer among the run's files; raises AppPotError."""
        if capture and spec.shares:
            raise UsageError(
                "changes cannot be saved where folders are brought into the machine as a layer",
                hint="leave the folders out (--no-job-dir), or --stage; or take another engine",
            )
        self.spec, self.capture = spec, capture
        self.shares, self.layer = spec.shares, ""
        self._shares = tuple(share for share in spec.shares if not share.read_only)
        if not spec.shares:
            return
        if spec.write_layer:
            raise UsageError(
                "a raw disk that is written to has no place for shared folders on this engine",
                hint="leave them out (--no-job-dir)",
            )
        undo.write(run.path, [], [runfiles.folder(run)])  # until the engine knows more
        stack.callback(undo.act, run.path)
        path = os.path.join(runfiles.folder(run), LAYER)
        make_layer(spec.shares, path)
        self.layer = path
        self.spec = replace(spec, layers=(*spec.layers, LayerFile(path)), shares=())
        self._expect(stack)

    @classmethod
    def again(cls, spec: MachineSpec, shares: tuple[Share, ...], stack: ExitStack) -> Staged:
        """Return the folders of a machine that has them already, and goes on."""
        staged = cls.__new__(cls)
        staged.spec, staged.capture, staged.shares, staged.layer = spec, None, shares, ""
        staged._shares = tuple(share for share in shares if not share.read_only)  # noqa: SLF001
        staged._expect(stack)  # noqa: SLF001
        return staged

    def _expect(self, stack: ExitStack) -> None:
        """Be ready to take the changes of the writable folders."""
        if not self._shares:
            return
        with _no_room("the changes of the folders"):
            archive = scratch.nameless_file(paths.scratch_dir())
        self._archive = stack.enter_context(os.fdopen(archive, "w+b"))
        excludes = tuple(all_but([share.target.strip(b"/") for share in self._shares]))
        self.capture = Capture(self._archive.fileno(), excludes)

    def bring_out(self, outcome: Outcome) -> Outcome:
        """Put the changes into the host's folders; return the outcome with what went wrong."""
        if not self._shares or not self.spec.layers:
            return outcome
        if not outcome.captured:
            if outcome.message or outcome.result is None:
                return outcome
            note = "the machine ended before its changes of shared folders could be fetched"
            return replace(outcome, notes=(*outcome.notes, note))
        self._archive.seek(0)
        try:
            folders = {share.target: share.source for share in self._shares}
            notes = putting.put(self._archive, folders)
        except MachineError as error:
            from apppot.image.saving import rescue

            kept = rescue(self._archive)
            raise MachineError(
                error.message + (f"; they are in {kept}, a tar archive" if kept else ""),
                hint=error.hint,
            ) from error
        return replace(outcome, captured=False, notes=(*outcome.notes, *notes))


def make_layer(shares: Sequence[Share], path: str) -> None:
    """Write a layer with the content of folders at their places in the guest.

    Raises AppPotError.
    """
    from apppot.image import erofs

    with (
        _no_room("folders on their way into the machine"),
        tempfile.TemporaryFile(dir=paths.scratch_dir()) as file,
    ):
        sparse = Sparse(file)
        with tarfile.open(fileobj=sparse, mode="w", format=tarfile.PAX_FORMAT) as archive:
            for share in shares:
                _add(archive, share)
        sparse.finish()
        erofs.make(file, path, holes=True)


@contextlib.contextmanager
def _no_room(what: str) -> Iterator[None]:
    """Turn an error of the folder for scratch, which has no name, into ours."""
    try:
        yield
    except OSError as error:
        raise MachineError(
            f"{what} find no place in {paths.scratch_dir()}: {error.strerror}",
            hint="APPPOT_TMPDIR names another folder for that",
        ) from error


def _add(archive: tarfile.TarFile, share: Share) -> None:
    target = share.target.strip(b"/")
    for above in _above(target):
        folder = tarfile.TarInfo(os.fsdecode(above))
        folder.type, folder.mode = tarfile.DIRTYPE, 0o755
        archive.addfile(folder)
    try:
        archive.add(share.source, os.fsdecode(target), filter=_checked)
    except OSError as error:
        if error.errno in _FULL:  # the archive's disk
            raise
        found = f"{error.strerror}: {error.filename}" if error.filename else error
        raise MachineError(
            f"cannot bring {share.source} into the machine: {found}",
            hint="name a folder with fewer files by --job-dir, or none by --no-job-dir",
        ) from error


def _checked(member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Return a file that can be in a layer; raises MachineError."""
    if os.path.basename(member.name).startswith(_DELETED):
        raise MachineError(
            f"a file cannot be brought into the machine by its name: {member.name}",
            hint=f"in layers, a name that begins with {_DELETED} says that a file was deleted",
        )
    return member


def _above(path: bytes) -> Iterator[bytes]:
    parts = path.split(b"/")
    for n in range(1, len(parts)):
        yield b"/".join(parts[:n])


def all_but(targets: Sequence[bytes]) -> Iterator[bytes]:
    """Yield patterns for all paths but `targets`, what is below them, and folders above them.

    A path leaves the allowed ones at one letter: for each letter there is a pattern.
    """
    prefixes = {target[:n] for target in targets for n in range(len(target))}
    folders = {above for target in targets for above in _above(target)}
    for prefix in sorted(prefixes):
        going_on = {t[len(prefix) : len(prefix) + 1] for t in targets if t.startswith(prefix)}
        if any(letter in b"!^-]\\[" or letter >= b"\x80" for letter in going_on):
            continue  # it would not be a simple pattern: more is archived then, and left out later
        letters = b"".join(sorted(going_on - {b""}))
        if not any(prefix == t or prefix.startswith(t + b"/") for t in targets):
            yield _literally(prefix) + b"[!" + letters + b"]*"
        if prefix and prefix not in folders and prefix not in targets:
            yield _literally(prefix)
    for target in targets:
        letters = b"".join(
            sorted({t[len(target) : len(target) + 1] for t in targets if t.startswith(target)})
        )
        if not any(letter in b"!^-]\\[" for letter in letters):
            yield _literally(target) + b"[!/" + letters + b"]*"


def _literally(path: bytes) -> bytes:
    return b"".join(b"\\" + bytes((c,)) if c in b"*?[]\\" else bytes((c,)) for c in path)
