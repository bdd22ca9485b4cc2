"""Scratch disks: sparse files without a name, formatted by the kit's mke2fs."""

from __future__ import annotations

import errno
import os

from apppot import paths, process
from apppot.errors import MachineError
from apppot.kit import MKE2FS
from apppot.lean import TYPE_CHECKING
from apppot.machine.limits import show_size

if TYPE_CHECKING:
    from apppot.kit import Kit
    from apppot.machine.engine import Hand
    from apppot.machine.model import MachineSpec

SMALLEST = 1 << 20
# What is used again after its machine has a journal, and a crash costs it nothing.
_KEPT_FEATURES = "has_journal,^resize_inode,extent,sparse_super2,uninit_bg"
# No journal: the disk is thrown away with the machine. Tables are written when they are needed.
_FEATURES = "^has_journal,^resize_inode,^metadata_csum,extent,sparse_super2,uninit_bg"


def mke2fs_arguments(program: str, device: str, *, kept: bool = False) -> list[str]:
    """Return the command line that formats a scratch disk."""
    # fmt: off
    return [
        # Inodes of 128 bytes, mke2fs's own choice here, have seconds, and only those until 2038.
        program, "-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-I", "256",
        "-O", _KEPT_FEATURES if kept else _FEATURES,
        *(["-J", "size=16"] if kept else []),
        "-E", "lazy_itable_init=1,lazy_journal_init=1,nodiscard,root_owner=0:0",
        "-L", "scratch", "-U", "00000000-0000-0000-0000-000000000001",
        device,
    ]
    # fmt: on


def make_disk(size: int, mke2fs: str) -> int:
    """Return the descriptor of a new disk of `size` bytes that takes no space until it is used.

    Raises MachineError if the folder for scratch cannot hold it at all.
    """
    folder = paths.scratch_dir()
    if size < SMALLEST:
        raise MachineError(
            f"a scratch disk of {show_size(size)} is too small", hint="--scratch takes 1M or more"
        )
    try:
        descriptor = nameless_file(folder)
        try:
            os.ftruncate(descriptor, size)
            device = f"/proc/self/fd/{descriptor}"
            process.run(
                mke2fs_arguments(mke2fs, device),
                pass_fds=(descriptor,),
                env=process.clean_environment({"MKE2FS_CONFIG": "/dev/null"}),
            )
        except BaseException:
            os.close(descriptor)
            raise
    except OSError as error:
        advice = "set APPPOT_TMPDIR to a folder with more room"
        if error.errno == errno.EFBIG:
            advice = "raise the limit on file sizes (ulimit -f), or ask for a smaller disk"
        raise MachineError(
            f"cannot make a scratch disk of {show_size(size)} in {folder}: {error.strerror}",
            hint=advice,
        ) from error
    return descriptor


def nameless_file(folder: str) -> int:
    """Return an open file in `folder` that has no name, so that nothing can be left behind."""
    try:
        return os.open(folder, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.ENOENT):
            raise
    import tempfile  # 1 ms that others need not pay

    descriptor, path = tempfile.mkstemp(prefix="apppot-scratch-", dir=folder)  # NFS, old kernels
    os.unlink(path)
    return descriptor


def give_disk(spec: MachineSpec, tools: Kit, hand: Hand) -> int | None:
    """Return the machine's number for its scratch disk, made or kept; None if it is in memory.

    Raises MachineError.
    """
    if spec.saving and spec.saving.disk is not None:
        return hand.give(os.dup(spec.saving.disk))
    if spec.scratch_file:
        return hand.open(spec.scratch_file, os.O_RDWR, "the file of changes")
    if spec.scratch is None:
        return None
    return hand.give(make_disk(spec.scratch, tools.file(MKE2FS)))
