"""Rewrite a tar archive into one whose bytes depend only on what is in it.

mkfs.erofs reads tar archives, but (as of 1.8) silently leaves out sparse files and entries of the
old type, misreads fractions of seconds, and cannot follow a hard link to a later entry. So archives
go through here first: every entry is read with Python's tarfile and written again in one form
(POSIX pax), sorted by path. The same files then give the same layer, whoever archived them.
"""

from __future__ import annotations

import posixpath
import tarfile
from typing import IO, TYPE_CHECKING

from apppot.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

XATTR = "SCHILY.xattr."
LIBARCHIVE_XATTR = "LIBARCHIVE.xattr."
PIECE = 1 << 20
LONGEST_COMPONENT = 255
NANOSECONDS = 9
LAST_MAJOR = (1 << 12) - 1
LAST_MINOR = (1 << 19) - 1  # Linux allows 20 bits, but mkfs.erofs 1.8 gets the last one wrong


def normalise(
    source: IO[bytes],
    target: IO[bytes],
    *,
    without: Callable[[str], bool] | None = None,
) -> int:
    """Write `source`, a seekable uncompressed or compressed archive, to `target` in the one form.

    `without` tells which paths (relative, no leading './') are left out. Returns the number of
    entries. Raises ImageError if the archive is damaged, or has what a layer cannot hold.
    """
    try:
        with (
            tarfile.open(fileobj=source, mode="r:*", errors="surrogateescape") as archive,
            tarfile.open(
                fileobj=target,
                mode="w|",
                format=tarfile.PAX_FORMAT,
                encoding="utf-8",
                errors="surrogateescape",
                bufsize=PIECE,
            ) as out,
        ):
            tree = _tree(archive, without or (lambda _: False))
            for path, member in _in_order(tree):
                data = _contents(archive, member)
                out.addfile(_rewritten(path, member), data)
            return len(tree)
    except (tarfile.TarError, EOFError) as error:
        raise ImageError(f"the tar archive is damaged: {error}") from error


def _tree(archive: tarfile.TarFile, without: Callable[[str], bool]) -> dict[str, tarfile.TarInfo]:
    """Return the archive's last entry for each path, hard links led to files; raises ImageError."""
    tree: dict[str, tarfile.TarInfo] = {}
    for member in archive:
        path = _path(member.name)
        if path != "." and without(path):
            continue
        if member.islnk():
            member.linkname = _path(member.linkname)
            if member.linkname == path:
                continue
        elif not (member.isfile() or member.isdir() or member.issym() or member.isdev()):
            raise ImageError(f"'{path}' in the archive is of the unknown type {member.type!r}")
        # A later entry stands for the path; a folder's contents stay if it is a folder again.
        old = tree.pop(path, None)
        if old is not None and old.isdir() and not member.isdir():
            for below in [p for p in tree if p.startswith(f"{path}/")]:
                del tree[below]
        tree[path] = member
    _add_folders(tree)
    return _led(tree)


def _path(name: str) -> str:
    """Return a member's path: relative, in its shortest form; raises ImageError."""
    path = posixpath.normpath("/" + name).lstrip("/") or "."
    if ".." in name.split("/"):
        raise ImageError(f"'{name}' in the archive leads out of it")
    for component in path.split("/"):
        if len(component.encode("utf-8", "surrogateescape")) > LONGEST_COMPONENT:
            raise ImageError(
                f"a name in the archive is longer than {LONGEST_COMPONENT} bytes: {path[:60]}..."
            )
    return path


def _add_folders(tree: dict[str, tarfile.TarInfo]) -> None:
    """Add the folders that the archive takes for granted, as mode 0755 of root."""
    for path in list(tree):
        parent = path
        while parent != ".":
            parent = posixpath.dirname(parent) or "."
            there = tree.get(parent)
            if there is None:
                folder = tarfile.TarInfo(parent)
                folder.type, folder.mode = tarfile.DIRTYPE, 0o755
                tree[parent] = folder
            elif not there.isdir():
                raise ImageError(f"'{path}' in the archive lies below '{parent}', not a folder")


def _led(tree: dict[str, tarfile.TarInfo]) -> dict[str, tarfile.TarInfo]:
    """Let each hard link name the entry that will be written first; raises ImageError.

    Of the names of one file the first in order gets its contents, so that the result does not
    depend on which name the archive had first.
    """
    groups: dict[str, list[str]] = {}
    for path, member in tree.items():
        if not member.islnk():
            continue
        final, seen = path, {path}
        while (there := tree.get(final)) is not None and there.islnk():
            final = there.linkname
            if final in seen:
                break
            seen.add(final)
        there = tree.get(final)
        if there is None or there.islnk() or there.isdir():
            raise ImageError(
                f"'{path}' in the archive is a hard link to '{final}', which is no file"
            )
        groups.setdefault(final, [final]).append(path)
    for final, names in groups.items():
        first, *others = sorted(names, key=_order)
        owner = tree[final]
        for name in others:
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.LNKTYPE, first
            tree[name] = link
        tree[first] = owner
    return tree


def _order(path: str) -> list[bytes]:
    """Return what a path is sorted by: a folder directly before what is in it."""
    return [] if path == "." else path.encode("utf-8", "surrogateescape").split(b"/")


def _in_order(tree: dict[str, tarfile.TarInfo]) -> Iterator[tuple[str, tarfile.TarInfo]]:
    for path in sorted(tree, key=_order):
        yield path, tree[path]


def _contents(archive: tarfile.TarFile, member: tarfile.TarInfo) -> IO[bytes] | None:
    """Return a regular file's contents, holes filled with zeros."""
    return archive.extractfile(member) if member.isfile() and member.size else None


def _rewritten(path: str, member: tarfile.TarInfo) -> tarfile.TarInfo:
    """Return the header in the one form."""
    new = tarfile.TarInfo(path)
    new.type = tarfile.REGTYPE if member.isfile() else member.type
    new.linkname = member.linkname if member.issym() or member.islnk() else ""
    if member.islnk():
        return new
    new.mode = member.mode & 0o7777
    new.uid, new.gid = member.uid, member.gid
    new.size = member.size if member.isfile() else 0
    if member.ischr() or member.isblk():
        if member.devmajor > LAST_MAJOR or member.devminor > LAST_MINOR:
            numbers = f"{member.devmajor}:{member.devminor}"
            raise ImageError(f"'{path}' in the archive is device {numbers}, out of range")
        new.devmajor, new.devminor = member.devmajor, member.devminor
    new.mtime, fraction = _time(member)
    headers = dict(_xattrs(member))
    if fraction:
        headers["mtime"] = f"{int(new.mtime)}.{fraction}"
    new.pax_headers = headers
    return new


def _time(member: tarfile.TarInfo) -> tuple[int, str]:
    """Return whole seconds and nine digits of fraction ('' if all are 0)."""
    text = member.pax_headers.get("mtime", "")
    whole, _, fraction = text.partition(".")
    if not text or whole.startswith("-") or not whole.isdigit():
        return int(member.mtime // 1), ""
    fraction = fraction[:NANOSECONDS].ljust(NANOSECONDS, "0")
    return int(whole), fraction if fraction.isdigit() and fraction.strip("0") else ""


def _xattrs(member: tarfile.TarInfo) -> Iterable[tuple[str, str]]:
    """Return the extended attributes in the form that mkfs.erofs reads, sorted by name."""
    found: dict[str, str] = {}
    for key, value in member.pax_headers.items():
        if key.startswith(LIBARCHIVE_XATTR):
            name, content = _libarchive(key, value)
            found.setdefault(name, content)
        elif key.startswith(XATTR):
            found[key.removeprefix(XATTR)] = value
    for name in found:
        if name != name.encode("utf-8", "replace").decode():  # tarfile cannot write it
            raise ImageError(f"'{member.name}' in the archive has an attribute {name!r}")
    return [(XATTR + name, found[name]) for name in sorted(found)]


def _libarchive(key: str, value: str) -> tuple[str, str]:
    """Return name and value of an attribute in libarchive's form: URL-quoted, base64."""
    import base64
    import binascii
    from urllib.parse import unquote

    try:
        content = base64.b64decode(value + "=" * (-len(value) % 4))
    except (binascii.Error, ValueError) as error:
        raise ImageError(f"the archive's attribute '{key}' is damaged") from error
    name = unquote(key.removeprefix(LIBARCHIVE_XATTR), errors="surrogateescape")
    return name, content.decode("utf-8", "surrogateescape")
