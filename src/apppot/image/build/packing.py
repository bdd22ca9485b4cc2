"""Pack what COPY and ADD take into a tar archive, for the guest to unpack."""

from __future__ import annotations

import copy
import io
import posixpath
import stat
import tarfile
import tempfile
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from apppot.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from apppot.image.build.context import Item

PIECE = 1 << 20
_BILLION = 10**9


def pack(items: Iterable[Item], target: IO[bytes], *, mode: int | None = None) -> None:
    """Write an archive of files of the host, all of root; raises ImageError.

    `mode` is given to everything but links. What is in archives among the items goes in as it is.
    """
    written: dict[tuple[int, int], str] = {}
    with _writing(target) as out:
        for item in items:
            try:
                if item.archive:
                    _add_archive(out, item.path)
                else:
                    _add(out, item, mode, written)
            except OSError as error:
                raise ImageError(
                    f"cannot read {item.path}: {error.strerror or error}",
                    hint="did it change while it was read?",
                ) from error


def _writing(target: IO[bytes]) -> tarfile.TarFile:
    return tarfile.TarFile(
        fileobj=target,
        mode="w",
        format=tarfile.PAX_FORMAT,
        encoding="utf-8",
        errors="surrogateescape",
        copybufsize=PIECE,
    )


def _add(
    out: tarfile.TarFile, item: Item, mode: int | None, written: dict[tuple[int, int], str]
) -> None:
    """Add one file; the second name of a file becomes a hard link."""
    header = tarfile.TarInfo(item.name)
    header.mode = item.mode & 0o7777 if mode is None else mode
    header.mtime = item.mtime // _BILLION
    if item.mtime % _BILLION:
        header.pax_headers = {"mtime": f"{item.mtime // _BILLION}.{item.mtime % _BILLION:09}"}
    if item.is_folder:
        header.type = tarfile.DIRTYPE
    elif stat.S_ISLNK(item.mode):
        header.type, header.linkname, header.mode = tarfile.SYMTYPE, item.link, 0o777
    elif item.inode and item.inode in written:
        header.type, header.linkname = tarfile.LNKTYPE, written[item.inode]
    else:
        if item.inode:
            written[item.inode] = item.name
        header.size = item.size
        if item.data is not None:
            out.addfile(header, io.BytesIO(item.data))
            return
        with open(item.path, "rb") as file:
            out.addfile(header, file)
        return
    out.addfile(header)


def _add_archive(out: tarfile.TarFile, path: str) -> None:
    """Add what is in an archive: its files keep their owners, modes and times."""
    try:
        with tarfile.open(path, mode="r:*", errors="surrogateescape") as archive:
            for member in archive:
                name = plain(member.name)
                if ".." in member.name.split("/"):
                    raise ImageError(f"ADD {path}: '{member.name}' leads out of the archive")
                if name != ".":
                    if member.islnk():
                        member.linkname = plain(member.linkname)
                    _add_member(out, archive, member, name)
    except (tarfile.TarError, EOFError, ValueError) as error:
        with open(path, "rb") as file:
            zstandard = file.read(4) == b"\x28\xb5\x2f\xfd"
        raise ImageError(
            f"ADD {path}: the archive cannot be read: {error}",
            hint="this Python cannot read Zstandard: COPY it and unpack it with RUN tar"
            if zstandard
            else "",
        ) from error


def _add_member(
    out: tarfile.TarFile, archive: tarfile.TarFile, member: tarfile.TarInfo, name: str
) -> None:
    if not (
        member.isfile() or member.isdir() or member.issym() or member.islnk() or member.isdev()
    ):
        return
    member.name = name
    kept = ("mtime", "SCHILY.xattr.")
    member.pax_headers = {k: v for k, v in member.pax_headers.items() if k.startswith(kept)}
    data = None
    if member.isfile():
        data = archive.extractfile(member)  # fills holes
        member.type, member.sparse = tarfile.REGTYPE, None
    out.addfile(member, data)


# -- COPY --from: archives of another file system are led to their new place --------------------


@dataclass(frozen=True)
class Match:
    """What one source of COPY --from has found: an entry of an archive, and all below it."""

    archive: IO[bytes]
    top: str  # in the archive; '.' is its root
    name: str  # what the source calls it: the name of a link that leads there
    folder: bool
    link: str = ""  # where it leads, if it is a symbolic link

    def renamed(self, path: str) -> str:
        """Return where an entry goes below the target; '' if it is not part of this."""
        if path == self.top:
            return "." if self.folder else self.name
        below = path if self.top == "." else path.removeprefix(self.top + "/")
        return below if self.folder and (self.top == "." or below != path) else ""


def matches(archive: IO[bytes]) -> list[Match]:
    """Return what the guest has found for one pattern: entries that no other one contains."""
    found: list[Match] = []
    with _reading(archive) as source:
        for member in source:
            path = plain(member.name)
            if found and (found[-1].top == "." or path.startswith(found[-1].top + "/")):
                continue
            link = member.linkname if member.issym() else ""
            name = posixpath.basename(path)
            found.append(Match(archive, path, name, member.isdir(), link))
    return found


def plain(name: str) -> str:
    """Return a member's path in its shortest form; '.' for the root."""
    return posixpath.normpath("/" + name).lstrip("/") or "."


def move(found: Iterable[Match], target: IO[bytes], *, mode: int | None = None) -> None:
    """Write an archive of what was found, under its new names; owners stay. Raises ImageError."""
    listed = list(found)
    try:
        with _writing(target) as out:
            for match in listed:
                with _reading(match.archive) as source:
                    for member in source:
                        _add_moved(out, source, member, match, mode, only=len(listed) == 1)
    except (tarfile.TarError, EOFError, KeyError) as error:
        raise ImageError(f"the guest's archive is damaged: {error}") from error


def _add_moved(
    out: tarfile.TarFile,
    source: tarfile.TarFile,
    member: tarfile.TarInfo,
    match: Match,
    mode: int | None,
    *,
    only: bool,
) -> None:
    name = match.renamed(plain(member.name))
    if not name or (name == "." and not only):  # one of several does not tell how it is made
        return
    new = copy.copy(member)
    if mode is not None and not member.issym():
        new.mode = mode
    if member.islnk():
        new.linkname = match.renamed(plain(member.linkname))
        if not new.linkname:  # what it belongs to stays behind
            first = source.getmember(member.linkname)
            new.type, new.size, new.sparse = tarfile.REGTYPE, first.size, first.sparse
            new.offset_data = first.offset_data
    _add_member(out, source, new, name)


def contents(archive: IO[bytes]) -> Iterator[tuple[str, IO[bytes] | None]]:
    """Yield what each entry is, in words and without its times, and its contents."""
    with _reading(archive) as source:
        for member in source:
            parts = (member.name, member.type, member.mode, member.uid, member.gid, member.linkname)
            attributes = {k: v for k, v in member.pax_headers.items() if k != "mtime"}
            device = (member.devmajor, member.devminor)
            data = source.extractfile(member) if member.isfile() else None
            yield repr((*parts, attributes, device)), data


def _reading(archive: IO[bytes]) -> tarfile.TarFile:
    archive.seek(0)
    return tarfile.open(fileobj=archive, mode="r:", errors="surrogateescape")


def temporary() -> IO[bytes]:
    """Return a new file without a name, in the folder for big throw-away files."""
    from apppot import paths

    folder = paths.scratch_dir()
    try:
        return tempfile.TemporaryFile(dir=folder)
    except OSError as error:
        raise ImageError(
            f"cannot write to {folder}: {error.strerror}",
            hint="set APPPOT_TMPDIR to a folder with more room",
        ) from error


def named() -> tempfile._TemporaryFileWrapper[bytes]:
    """Return a new file that others open by its name, and that is removed when it is closed."""
    from apppot import paths

    return tempfile.NamedTemporaryFile(prefix="apppot-build-", dir=paths.scratch_dir())
