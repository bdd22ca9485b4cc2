"""COW files: what machines have changed on an image, kept from run to run.

Such a file is a sparse ext4 disk, which the guest takes as its scratch disk. A line of JSON in its
first 1024 bytes, which ext4 leaves free, says which image it belongs to.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import struct
import time

from apppot import kit, process
from apppot.errors import ImageError
from apppot.machine import scratch

MAGIC = b"AppPot COW 1\n"
_HEADER = 1024
_SIZES = (64 << 30, 16 << 30, 4 << 30, 1 << 30, 256 << 20)  # the first that the file system takes
_UML_MAGIC = b"OOOM"


def open_file(path: str, identity: str, image: str) -> int:
    """Return the descriptor that holds the lock on a COW file, which is made if it is not there.

    `identity` is the image's. Raises ImageError if the file is not one, belongs to another image,
    or is in use.
    """
    if not os.path.exists(path):
        _make(path, identity, image)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        raise ImageError(f"cannot open the COW file {path}: {error.strerror}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _check(descriptor, path, identity, image)
    except BlockingIOError as error:
        os.close(descriptor)
        raise ImageError(
            f"the COW file {path} is in use by another machine",
            hint="each machine that runs at the same time needs a COW file of its own",
        ) from error
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _check(descriptor: int, path: str, identity: str, image: str) -> None:
    head = os.pread(descriptor, _HEADER, 0)
    if head.startswith(_UML_MAGIC):
        raise ImageError(
            f"{path} is a COW file of User-Mode Linux{_backing(descriptor)}, which cannot be used",
            hint="merge it into a copy of its disk: uml_moo -b DISK COW NEW (of uml-utilities)",
        )
    if not head.startswith(MAGIC):
        raise ImageError(
            f"{path} is no COW file of AppPot", hint="name a file that does not exist yet"
        )
    try:
        facts = json.loads(head[len(MAGIC) :].split(b"\0", 1)[0])
        base, name = facts["base"], facts["name"]
    except (ValueError, KeyError, TypeError) as error:
        raise ImageError(f"the COW file {path} is damaged: it does not name its image") from error
    if base != identity:
        raise ImageError(
            f"the COW file {path} belongs to another image: {name} ({_short(base)}),"
            f" and not to {image} ({_short(identity)})",
            hint="an image that was written to is another one; start with a new COW file",
        )


def _short(digest: object) -> str:
    return str(digest).removeprefix("sha256:")[:12]


def _backing(descriptor: int) -> str:
    """Return which disk a COW file of User-Mode Linux says that it belongs to."""
    head = os.pread(descriptor, 8192, 0)
    if len(head) < 8 + 28:
        return ""
    (version,) = struct.unpack_from(">I", head, 4)
    at = {2: 8, 3: 32}.get(version)
    if at is None:
        return f" (version {version})"
    name = head[at : at + 4096].split(b"\0", 1)[0].decode("utf-8", "replace")
    return f" (version {version}, of the disk {name})" if name.isprintable() else ""


def _make(path: str, identity: str, image: str) -> None:
    """Make a COW file aside, and give it its name when it is whole."""
    aside = f"{path}.{os.getpid()}.new"
    try:
        descriptor = os.open(aside, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            _set_size(descriptor)
            process.run(
                scratch.mke2fs_arguments(
                    kit.find().file(kit.MKE2FS), f"/proc/self/fd/{descriptor}", kept=True
                ),
                pass_fds=(descriptor,),
                env=process.clean_environment({"MKE2FS_CONFIG": "/dev/null"}),
            )
            facts = {"base": identity, "name": image[-400:], "created": int(time.time())}
            header = MAGIC + json.dumps(facts).encode() + b"\n"
            os.pwrite(descriptor, header.ljust(_HEADER, b"\0"), 0)
            os.fsync(descriptor)
            os.link(aside, path)  # of several at once, one wins
        except FileExistsError:
            pass
        finally:
            os.close(descriptor)
            os.unlink(aside)
    except OSError as error:
        raise ImageError(f"cannot make the COW file {path}: {error.strerror}") from error


def _set_size(descriptor: int) -> None:
    for size in _SIZES:
        try:
            os.ftruncate(descriptor, size)
        except OSError as error:
            if error.errno not in (errno.EFBIG, errno.EINVAL) or size == _SIZES[-1]:
                raise
        else:
            return
