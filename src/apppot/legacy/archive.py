"""Archives of changes as the original's `apppot-snap` wrote them: GNU tar, incremental, gzip.

An archive becomes a plain one, renames that go before it, and for each of its folders the names of
what was in it: what is not named was deleted. The guest applies these (the agent's `tidy`).
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import tarfile
import zlib
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Self, TypeVar, cast

from apppot.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Iterator

DUMPED = b"D"
_LABEL, _CONTINUED = b"V", b"M"
_KNOWN = (
    *(tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.CHRTYPE),
    *(tarfile.BLKTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE, tarfile.CONTTYPE),
    *(tarfile.GNUTYPE_SPARSE, DUMPED),
)
# The machine's own, not the image's.
_SKIPPED = ("dev", "proc", "sys", "run", "home/user/job", "usr/local/bin/apppot-snap")
_OLD_GNU = b"ustar  \0"
_LATEST = 1 << 33  # seconds; what is beyond is no time of a change


class _Member(tarfile.TarInfo):
    """An entry that remembers the latest time in its header; GNU tar has three there."""

    latest = 0.0

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        member = super().frombuf(buf, encoding, errors)
        return member if _MOVED else _noted(member, buf, encoding, errors)

    @classmethod
    def _frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str, **more: Any) -> Self:
        made: Self = super()._frombuf(buf, encoding, errors, **more)  # type: ignore[misc]
        return _noted(made, buf, encoding, errors)


# Security updates of Python have moved what frombuf() did, and do not call it.
_MOVED = hasattr(tarfile.TarInfo, "_frombuf")
_M = TypeVar("_M", bound=_Member)


def _noted(member: _M, buf: bytes | bytearray, encoding: str, errors: str) -> _M:
    """Note the latest time of a member's header, and correct its name."""
    member.latest = float(member.mtime)
    if bytes(buf[257:265]) == _OLD_GNU and member.type in _KNOWN:
        # There Python sees the first part of a name.
        first = bytes(buf[345:500]).split(b"\0", 1)[0].decode(encoding, errors)
        if first and member.type != tarfile.GNUTYPE_SPARSE:
            member.name = member.name.removeprefix(f"{first}/")
        for at in (345, 357):
            text = bytes(buf[at : at + 12]).strip(b" \0")
            if text and not text.strip(b"01234567"):
                member.latest = max(member.latest, float(int(text, 8)))
    return member


@dataclass(frozen=True)
class Plain:
    """An archive without specialities (in the caller's file), and orders for `tidy`.

    `made` is the second in which the archive's maker made the last change that it has a trace of;
    `written` is when the archive was last written, in nanoseconds: what came to the base after
    either was not there to be deleted.
    """

    renames: bytes
    names: bytes
    made: int
    written: int
    folders: int

    def limit(self) -> tuple[int, int]:
        """Return seconds and nanoseconds: only what had changed by then can have been deleted."""
        end = min((self.made + 1) * 10**9 - 1, self.written)
        return end // 10**9, end % 10**9


class _Whole:
    """Reads an archive to its very end, and knows whether it has one."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._last = b""

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._last = (self._last + data)[-tarfile.BLOCKSIZE :]
        return data

    def finish(self) -> None:
        """Raise ReadError if the block of zeros is missing that ends an archive."""
        while self.read(1 << 20):
            pass
        if self._last.strip(b"\0") or len(self._last) < tarfile.BLOCKSIZE:
            raise tarfile.ReadError("it ends too early")


def _uncompressed(file: IO[bytes]) -> IO[bytes]:
    """Return what reads the archive itself: tarfile's own streams do not miss an end."""
    head = file.read(6)
    file.seek(0)
    opened: Any = file
    if head.startswith(b"\x1f\x8b"):
        opened = gzip.GzipFile(fileobj=file, mode="rb")
    elif head.startswith(b"BZh"):
        opened = bz2.BZ2File(file)
    elif head.startswith(b"\xfd7zXZ\0"):
        opened = lzma.LZMAFile(file)  # noqa: SIM115  it opens nothing
    return cast("IO[bytes]", opened)


def convert(path: str, target: IO[bytes]) -> Plain:
    """Write the plain form of an archive to `target`; raises ImageError."""
    try:
        with open(path, "rb") as file:
            written = os.fstat(file.fileno()).st_mtime_ns
            whole = _Whole(_uncompressed(file))
            with (
                tarfile.open(
                    fileobj=cast("IO[bytes]", whole),
                    mode="r|",
                    tarinfo=_Member,
                    errors="surrogateescape",
                ) as source,
                tarfile.open(
                    fileobj=target,
                    mode="w|",
                    format=tarfile.PAX_FORMAT,
                    errors="surrogateescape",
                ) as plain,
            ):
                found = _convert(source, plain, path, written)
                whole.finish()
                return found
    except (tarfile.TarError, EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
        raise ImageError(
            f"the archive of changes {path} is damaged or no archive: {error}",
            hint="copy it again; it must be a tar archive as apppot-snap makes it",
        ) from error
    except OSError as error:
        raise ImageError(
            f"cannot read the archive of changes {path}: {error.strerror or error}"
        ) from error


def _convert(source: tarfile.TarFile, plain: tarfile.TarFile, path: str, written: int) -> Plain:
    renames, names = bytearray(), bytearray()
    made = folders = 0
    for entry in source:
        member = cast("_Member", entry)
        times = [member.latest, *(float(member.pax_headers.get(n, 0)) for n in ("atime", "ctime"))]
        made = max([made, *(int(each) for each in times if each < _LATEST)])
        if member.type == _LABEL or _is_skipped(member.name):
            continue
        if member.type not in _KNOWN:
            what = "part of several volumes" if member.type == _CONTINUED else "of an unknown type"
            raise ImageError(f"the archive of changes {path} cannot be merged: {what}")
        dump = _dump(source, member)
        if dump is not None:
            folders += 1
            _orders(member.name, dump, renames, names)
        _copy(source, plain, member)
    return Plain(bytes(renames), bytes(names), made, written, folders)


def _dump(source: tarfile.TarFile, member: tarfile.TarInfo) -> bytes | None:
    """Return the list of names that an incremental archive has for a folder."""
    if member.type == DUMPED:
        data = source.extractfile(member)
        return data.read() if data else b""
    text = member.pax_headers.get("GNU.dumpdir")
    return None if text is None else text.encode("utf-8", "surrogateescape")


def _copy(source: tarfile.TarFile, plain: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    if _relative(member.name) in ("", "."):
        return
    new = tarfile.TarInfo(_relative(member.name))
    for field in ("mode", "uid", "gid", "mtime", "linkname", "devmajor", "devminor"):
        setattr(new, field, getattr(member, field))
    new.type = tarfile.DIRTYPE if member.type == DUMPED else member.type
    new.pax_headers = {
        key: value for key, value in member.pax_headers.items() if key.startswith("SCHILY.xattr.")
    }
    data = None
    if member.isreg() or member.type == tarfile.GNUTYPE_SPARSE:
        new.type = tarfile.REGTYPE
        new.size = member.size
        data = source.extractfile(member)
    elif new.islnk():
        new.linkname = _relative(member.linkname)
    plain.addfile(new, data)


def _orders(folder: str, dump: bytes, renames: bytearray, names: bytearray) -> None:
    """Add what a folder's list says to the orders."""
    place = os.fsencode(_relative(folder) or ".")
    names += b"K\0" + place + b"\0"
    origin = b""
    for kind, name in _texts(dump):
        if kind == b"R":
            origin = name
        elif kind == b"T" and origin:
            renames += b"M\0" + origin + b"\0" + name + b"\0"
            origin = b""
        elif kind in (b"Y", b"N", b"D"):
            names += name + b"\0"
    names += b"\0"


def _texts(dump: bytes) -> Iterator[tuple[bytes, bytes]]:
    for text in dump.split(b"\0"):
        if len(text) > 1:
            yield text[:1], text[1:]


def _relative(name: str) -> str:
    while name.startswith(("/", "./")):
        name = name.removeprefix("./") if name.startswith("./") else name[1:]
    return name.rstrip("/")


def _is_skipped(name: str) -> bool:
    path = _relative(name)
    return any(path == each or path.startswith(each + "/") for each in _SKIPPED)
