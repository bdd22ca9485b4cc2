"""A checkpoint's folder: a new one takes the old one's place when it is whole, or not at all."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
from typing import TYPE_CHECKING

from apppot.checkpoint import manifest
from apppot.checkpoint.manifest import Disk
from apppot.checkpoint.sums import Digest
from apppot.errors import MachineError, UsageError
from apppot.image import aside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import ExitStack

    from apppot.checkpoint.manifest import Manifest

_MEMORY, _DISK, _FOLDERS = "memory-", "disk-", "folders-"
_OURS = re.compile(r"(memory|disk|folders)-[0-9a-f]{8}")
_PIECE = 16 << 20  # bytes for one call of the system: on slow disks, the user may want to end it
_FICLONE = 0x40049409


class Kept:
    """A disk that is kept in a checkpoint's folder; its digest is computed while others work."""

    def __init__(self, descriptor: int, name: str, files: ExitStack) -> None:
        """Begin with the digest; the file stays open until `files` is closed."""
        self._descriptor, self._name = descriptor, name
        self._digest = Digest(descriptor, files)

    @property
    def room(self) -> int:
        """The bytes that it takes."""
        return os.fstat(self._descriptor).st_blocks * 512

    def disk(self) -> Disk:
        """Wait for the digest, and return what the manifest says of the disk; raises OSError."""
        size = os.fstat(self._descriptor).st_size
        return Disk(self._name, size, self._digest.result())


class Folder:
    """The folder that a run keeps its checkpoint in; nobody else writes to it meanwhile."""

    def __init__(self, path: str, stack: ExitStack, *, new: bool = True) -> None:
        """Make the folder if it is not there and may be `new`; raises UsageError."""
        self.path = os.path.abspath(path)
        try:
            if new:
                os.makedirs(self.path, mode=0o700, exist_ok=True)
            self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            if not new:
                raise manifest.none(self.path, error) from error
            raise UsageError(
                f"checkpoints cannot be kept in {path}: {error.strerror}",
                hint="name a folder of yours with --checkpoint-dir",
            ) from error
        stack.callback(os.close, self._lock)
        if not os.access(self.path, os.W_OK | os.X_OK):
            raise UsageError(
                f"checkpoints cannot be kept in {path}: it is not writable",
                hint="name a folder of yours; one that holds a checkpoint can be copied",
            )
        self._alone = True
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                raise UsageError(
                    f"another run keeps its checkpoint in {path}",
                    hint="each run needs a folder of its own",
                ) from error
            self._alone = False  # not for sure: this file system has no locks

    @property
    def used(self) -> bool:
        """Whether there is a checkpoint."""
        return os.path.lexists(os.path.join(self.path, manifest.NAME))

    @contextlib.contextmanager
    def file(self, kind: str) -> Iterator[tuple[int, str]]:
        """Give the descriptor and the name of a new file, which is there if no error comes."""
        name = kind + os.urandom(4).hex()
        with aside.whole(os.path.join(self.path, name), mode=0o600) as file:
            yield file.fileno(), name

    def memory(self) -> contextlib.AbstractContextManager[tuple[int, str]]:
        """Give a file for the machine's memory."""
        return self.file(_MEMORY)

    def keep_disk(self, files: ExitStack, disk: int, *, final: bool) -> Kept:
        """Keep a machine's disk, that stands still until this returns; for good if `final`."""
        if final:
            name = _DISK + os.urandom(4).hex()
            with contextlib.suppress(OSError):  # of another file system, or had a name once
                # With a folder's descriptor, Python's link() follows the link to the file.
                os.link(f"/proc/self/fd/{disk}", name, src_dir_fd=self._lock, dst_dir_fd=self._lock)
                files.callback(os.fsync, disk)
                return Kept(disk, name, files)
        return self._keep(files, disk, _DISK)

    def keep_layer(self, files: ExitStack, layer: int) -> Kept:
        """Keep the layer of the machine's folders."""
        return self._keep(files, layer, _FOLDERS)

    def _keep(self, files: ExitStack, source: int, kind: str) -> Kept:
        target, name = files.enter_context(self.file(kind))
        copy(source, target)
        return Kept(target, name, files)

    def commit(self, done: Manifest) -> None:
        """Let a checkpoint, whose files are there, be the one that the folder holds."""
        with aside.whole(os.path.join(self.path, manifest.NAME), mode=0o600) as file:
            file.write(manifest.render(done))
        os.fsync(self._lock)
        self.tidy(done)

    def sweep(self, kept: Manifest) -> None:
        """Remove what a run has left that was killed while it saved its machine here."""
        if self._alone:
            self.tidy(kept)

    def tidy(self, kept: Manifest | None) -> None:
        """Remove the files of earlier checkpoints, and of those that were not finished."""
        names = {blob.name for blob in kept.blobs} if kept else set()
        for name in os.listdir(self.path):
            if _OURS.fullmatch(name) and name not in names:  # other files there are the user's
                with contextlib.suppress(OSError):
                    os.unlink(os.path.join(self.path, name))


def copy(source: int, target: int, look: Callable[[], None] = lambda: None) -> None:
    """Copy a file; what is not there takes no room. Raises OSError.

    Every now and then it will `look`, which may raise.
    """
    size = os.fstat(source).st_size
    os.ftruncate(target, size)
    with contextlib.suppress(OSError):
        fcntl.ioctl(target, _FICLONE, source)
        return
    at = 0
    while at < size:
        try:
            begin = os.lseek(source, at, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return
            raise
        at = os.lseek(source, begin, os.SEEK_HOLE)
        _copy_part(source, target, begin, at, look)


def _copy_part(source: int, target: int, begin: int, end: int, look: Callable[[], None]) -> None:
    while begin < end:
        look()
        piece = min(end - begin, _PIECE)
        try:
            done = os.copy_file_range(source, target, piece, begin, begin)
        except OSError:  # between file systems, on some kernels
            done = os.pwrite(target, os.pread(source, min(piece, 1 << 20), begin), begin)
        if not done:
            raise MachineError("a disk became shorter while it was copied")
        begin += done
