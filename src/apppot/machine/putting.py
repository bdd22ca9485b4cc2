"""Put a guest's changes into folders of the host, without trusting the guest.

Nothing outside of a folder is reached, whatever names and links an archive has: each folder is
opened from the one above it, and links are never followed.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import tarfile
from typing import IO, TYPE_CHECKING

from apppot.errors import MachineError
from apppot.holes import PIECE, Sparse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

_WHITEOUT, _OPAQUE = b".wh.", b".wh..wh..opq"
_NEW = b".apppot-new-"
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MODE = 0o1777  # no set-user-ID from a machine


def put(archive: IO[bytes], folders: Mapping[bytes, str]) -> list[str]:
    """Apply an archive of changes; `folders` are the guest's paths and the host's.

    Return what the user should know. Raises MachineError.
    """
    try:
        with tarfile.open(fileobj=archive, mode="r:") as source:
            members = source.getmembers()
            notes = []
            for target, path in folders.items():
                own = list(_below(members, target.strip(b"/")))
                with _Host(path) as host:
                    for name, _ in own:
                        host.delete(name)
                    for name, member in own:
                        notes += host.put(source, name, member)
                    for name, member in reversed(own):
                        host.settle(name, member)
    except (OSError, KeyError, tarfile.TarError) as error:
        raise MachineError(
            f"the changes of shared folders could not be brought out: {error}",
            hint="check space and permissions",
        ) from error
    return notes


def _below(
    members: list[tarfile.TarInfo], target: bytes
) -> Iterator[tuple[bytes, tarfile.TarInfo]]:
    """Yield what belongs to a folder, with names inside it."""
    for member in members:
        name = _clean(member.name)
        if name is not None and (name == target or name.startswith(target + b"/")):
            yield name[len(target) + 1 :], member


def _clean(text: str) -> bytes | None:
    """Return a path without needless parts; None if it goes upwards."""
    parts = [part for part in os.fsencode(text).split(b"/") if part not in (b"", b".")]
    return None if b".." in parts else b"/".join(parts)


class _Host:
    """A folder (or a single file) of the host that is written to."""

    def __init__(self, path: str) -> None:
        self._single = b"" if os.path.isdir(path) else os.path.basename(os.fsencode(path))
        self._root = os.open(os.path.dirname(path) if self._single else path, _FOLDER)

    def __enter__(self) -> _Host:  # noqa: PYI034
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._root)

    @contextlib.contextmanager
    def _at(self, name: bytes) -> Iterator[tuple[int, bytes]]:
        """Give the folder that holds `name`, made if it is not there, and the last part."""
        if self._single:
            if name:
                raise OSError(f"{os.fsdecode(self._single)} is no folder")
            yield self._root, self._single
            return
        *above, last = name.split(b"/")
        here = os.dup(self._root)
        try:
            for part in above:
                with contextlib.suppress(FileExistsError):
                    os.mkdir(part, 0o700, dir_fd=here)
                below = os.open(part, _FOLDER, dir_fd=here)
                os.close(here)
                here = below
            yield here, last
        finally:
            os.close(here)

    def delete(self, name: bytes) -> None:
        """Delete what an entry says has been deleted, if it says that."""
        last = name.rpartition(b"/")[2]
        if not last.startswith(_WHITEOUT) or self._single:
            return
        with (
            contextlib.suppress(FileNotFoundError, NotADirectoryError),
            self._at(name) as (here, _),
        ):
            if last == _OPAQUE:
                for each in os.listdir(here):
                    _remove(here, os.fsencode(each))
            else:
                _remove(here, last.removeprefix(_WHITEOUT))

    def put(self, source: tarfile.TarFile, name: bytes, member: tarfile.TarInfo) -> list[str]:
        """Write one entry; return what the user should know."""
        if name.rpartition(b"/")[2].startswith(_WHITEOUT) or (not name and not self._single):
            return []
        with self._at(name) as (here, last):
            if member.isdir():
                _make_folder(here, last)
            elif member.issym():
                _replace(here, last, lambda new: os.symlink(member.linkname, new, dir_fd=here))
                os.utime(last, (member.mtime,) * 2, dir_fd=here, follow_symlinks=False)
            elif member.isreg() or member.islnk():
                _replace(here, last, lambda new: _write(source, member, here, new))
            elif member.isfifo():
                _replace(here, last, lambda new: os.mkfifo(new, member.mode & _MODE, dir_fd=here))
            else:
                return [f"not brought out, as it is a device: {member.name}"]
        return []

    def settle(self, name: bytes, member: tarfile.TarInfo) -> None:
        """Give a folder its mode and time, after what is in it."""
        if not member.isdir() or self._single:
            return
        with self._at(name) if name else contextlib.nullcontext((self._root, b".")) as (here, last):
            inside = os.open(last, _FOLDER, dir_fd=here)
            try:
                with contextlib.suppress(PermissionError):  # another user's, whose group may write
                    if name:
                        _own(inside, member)
                    os.utime(inside, (member.mtime,) * 2)
            finally:
                os.close(inside)


def _own(descriptor: int, member: tarfile.TarInfo) -> None:
    if os.geteuid() == 0:
        os.fchown(descriptor, member.uid, member.gid)
    os.fchmod(descriptor, member.mode & _MODE)


def _make_folder(here: int, name: bytes) -> None:
    with contextlib.suppress(FileNotFoundError):
        if stat.S_ISDIR(os.lstat(name, dir_fd=here).st_mode):
            return
        os.unlink(name, dir_fd=here)
    os.mkdir(name, 0o700, dir_fd=here)


def _write(source: tarfile.TarFile, member: tarfile.TarInfo, here: int, new: bytes) -> None:
    content = source.extractfile(member)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    with open(os.open(new, flags, 0o600, dir_fd=here), "wb") as file:
        if content:
            sparse = Sparse(file)
            shutil.copyfileobj(content, sparse, PIECE)
            sparse.finish()
        file.flush()
        _own(file.fileno(), member)
        os.utime(file.fileno(), (member.mtime,) * 2)


def _replace(here: int, name: bytes, make: Callable[[bytes], None]) -> None:
    """Let `make` make something under another name, and give it its own."""
    new = _NEW + os.urandom(8).hex().encode()
    try:
        make(new)
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISDIR(os.lstat(name, dir_fd=here).st_mode):
                _remove(here, name)
        os.rename(new, name, src_dir_fd=here, dst_dir_fd=here)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(new, dir_fd=here)
        raise


def _remove(here: int, name: bytes) -> None:
    """Remove a file, or a folder with all that is in it."""
    try:
        os.unlink(name, dir_fd=here)
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):
        inside = os.open(name, _FOLDER, dir_fd=here)
        try:
            for each in os.listdir(inside):
                _remove(inside, os.fsencode(each))
        finally:
            os.close(inside)
        os.rmdir(name, dir_fd=here)
