"""Bring a tar archive into one form, whose bytes depend only on what is in it.

mkfs.erofs reads tar archives, but (as of 1.8) silently leaves out sparse files and entries of the
old type, misreads fractions of seconds, and cannot follow a hard link to a later entry. So archives
go through here first: every entry is written again in one form, sorted by path. The same files then
give the same layer, whoever archived them.

What a layer deletes of the layers below has two forms. OCI's (`canonical`) is for other programs:
`.wh.NAME` for a deleted file, `.wh..wh..opq` in a folder of which nothing below shines through. The
native one is overlayfs's: a device 0:0, and an attribute of the folder. `normalise` writes the
native form and computes the digest of the other on the way: the layer's content digest.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING

from apppot.errors import ImageError
from apppot.image import tarread, tartree, tarwrite
from apppot.image.tarread import FOLDER, HARD_LINK, Entry, Source, shown
from apppot.image.tartree import MARK, MOST_ENTRIES, OPAQUE, WHITEOUT, join, parent

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PIECE = 1 << 20
LARGE = 1 << 17
LAST_MAJOR = (1 << 12) - 1
LAST_MINOR = (1 << 19) - 1  # Linux allows 20 bits, but mkfs.erofs 1.8 gets the last one wrong
OPAQUE_XATTR = (b"trusted.overlay.opaque", b"y")
_ROOT = b""
FOLDER_ENTRY = Entry(FOLDER, 0o755)


@dataclass(frozen=True)
class Normalised:
    """What was written: the number of entries, and the digest of the canonical form."""

    entries: int
    content: str


def normalise(
    source: IO[bytes],
    target: IO[bytes],
    *,
    without: Callable[[str], bool] | None = None,
    limit: int = 0,
    newest: int | None = None,
    below: tuple[int, int] | None = None,
) -> Normalised:
    """Write `source`, a seekable uncompressed archive in OCI's form, to `target` in the native one.

    `without` tells which paths (relative, no leading './') are left out; `limit` is the most
    bytes to write; times after `newest` become that one. `below` is where `source` has, after its
    own entries, an archive of the lower layers' files that hard links lead to. Raises ImageError if
    the archive is damaged, or has what a layer cannot hold.
    """
    reader = Source(source)
    if below:
        lower = tartree.part(source, *below)
        tree = tartree.read(tarread.Part(source, 0, below[0]), without, lower)
    else:
        tree = tartree.read(reader, without)
    if newest is not None:
        for entry in tree.values():
            if entry.mtime >= newest:
                entry.mtime, entry.nanoseconds = newest, 0
    out = Output(target, None, limit)
    return _write(reader, tree, out)


def canonical(source: IO[bytes], target: IO[bytes], *, limit: int = 0) -> Normalised:
    """Write `source`, a seekable uncompressed archive, to `target` in OCI's form; see normalise."""
    reader = Source(source)
    tree = tartree.read(reader, None)
    out = Output(None, target, limit)
    return _write(reader, tree, out)


def write_tree(source: Source, tree: dict[bytes, Entry], target: IO[bytes]) -> Normalised:
    """Write a tree whose contents lie in `source` to `target` in OCI's form; see normalise."""
    return _write(source, tree, Output(None, target, 0))


class Output:
    """Writes the native form, or the canonical one; takes the digest of the latter."""

    def __init__(self, native: IO[bytes] | None, canonical_: IO[bytes] | None, limit: int) -> None:
        self.native = native
        self.canonical = canonical_
        self.limit = limit
        self.state = hashlib.sha256()
        self.waiting: list[bytes] = []
        self.held = self.written = 0

    def both(self, piece: bytes) -> None:
        """Write what is the same in both forms."""
        if len(piece) >= LARGE:  # is not copied once more
            self.flush()
            self.state.update(piece)
            self._put(piece, piece)
            return
        self.waiting.append(piece)
        self.held += len(piece)
        if self.held >= PIECE:
            self.flush()

    def either(self, native: bytes, canonical_: bytes) -> None:
        """Write what differs."""
        self.flush()
        self.state.update(canonical_)
        self._put(native, canonical_)

    def flush(self) -> None:
        """Write what is waiting."""
        data = b"".join(self.waiting) if len(self.waiting) != 1 else self.waiting[0]
        self.waiting.clear()
        self.held = 0
        self.state.update(data)
        self._put(data, data)

    def _put(self, native: bytes, canonical_: bytes) -> None:
        self.written += max(len(native), len(canonical_))
        if self.limit and self.written > self.limit:
            raise ImageError(
                f"the archive's files take more than the {self.limit >> 20} MiB that there is room"
                " for"
            )
        if self.native:
            self.native.write(native)
        if self.canonical:
            self.canonical.write(canonical_)


def _write(source: Source, tree: dict[bytes, Entry], out: Output) -> Normalised:
    """Write the tree in order; raises ImageError."""
    keys, opaque = _marks(tree)
    known: set[bytes] = set()
    first: dict[int, bytes] = {}
    count = 0
    for key in keys:
        if key and parent(key) not in known:
            count += _folders(parent(key), tree, known, opaque, out)
        entry = tree.get(key, FOLDER_ENTRY if key == _ROOT else MARK)
        count += 1
        if count > MOST_ENTRIES:
            raise ImageError(f"the archive has more than {MOST_ENTRIES} files and folders")
        path = key.replace(b"\0", b"/")
        if entry.kind == FOLDER:
            known.add(key)
            put_folder(path or b".", entry, out, opaque=key in opaque)
        elif entry is MARK:
            put_mark(path, out)
        elif entry.shared and (name := first.setdefault(id(entry), path)) != path:
            # With all that the file has: some programs set it again from here.
            again = replace(entry, kind=HARD_LINK, link=name, size=0)
            out.both(tarwrite.headers(path, again))
        else:
            check_device(path, entry)
            out.both(tarwrite.headers(path, entry))
            put_contents(source, path, entry, out)
    out.both(tarwrite.END)
    out.flush()
    return Normalised(count, f"sha256:{out.state.hexdigest()}")


def _folders(
    key: bytes,
    tree: dict[bytes, Entry],
    known: set[bytes],
    opaque: set[bytes],
    out: Output,
) -> int:
    """Write the folders that the archive takes for granted, as mode 0755 of root."""
    missing = []
    while key not in known:
        if key in tree:
            raise ImageError(f"files in the archive lie below '{shown(key)}', not a folder")
        missing.append(key)
        key = parent(key)
    for folder in reversed(missing):
        known.add(folder)
        put_folder(folder.replace(b"\0", b"/"), FOLDER_ENTRY, out, opaque=folder in opaque)
    return len(missing)


def _marks(tree: dict[bytes, Entry]) -> tuple[list[bytes], set[bytes]]:
    """Return all keys in order, with the marks that mean something, and the opaque folders.

    A file that is deleted and made anew needs no mark; a folder so is opaque. In an opaque folder
    nothing is left to be deleted.
    """
    marks = [key for key, entry in tree.items() if entry is MARK]
    keys = sorted({_ROOT, *tree})
    if not marks:
        return keys, set()
    opaque: set[bytes] = set()
    dropped = {key for key in marks if _below_file(key, tree)}  # umoci writes such ones
    marks = [key for key in marks if key not in dropped]
    for key in marks:
        folder, _, name = key.rpartition(b"\0")
        if name == OPAQUE:
            opaque.add(folder)
            continue
        back = join(folder, name[len(WHITEOUT) :])
        at = bisect_left(keys, back)
        if at < len(keys) and keys[at] == back and tree[back].kind != FOLDER:
            dropped.add(key)
        elif at < len(keys) and (keys[at] == back or keys[at].startswith(back + b"\0")):
            dropped.add(key)
            opaque.add(back)
    outer = {folder for folder in opaque if not inside(parent(folder), opaque)}
    for key in marks:
        folder, _, name = key.rpartition(b"\0")
        if name == OPAQUE and folder not in outer:
            dropped.add(key)
            tree.setdefault(folder, FOLDER_ENTRY)
        elif name != OPAQUE and inside(folder, opaque):
            dropped.add(key)
    added = {join(folder, OPAQUE) for folder in outer}
    return sorted(({_ROOT, *tree} - dropped) | added), outer


def _below_file(key: bytes, tree: dict[bytes, Entry]) -> bool:
    """Tell whether a path lies below one that is not a folder."""
    while key := parent(key):
        if key in tree and tree[key].kind != FOLDER:
            return True
    return False


def inside(key: bytes, folders: set[bytes]) -> bool:
    """Tell whether a folder is one of these, or below one."""
    while key:
        if key in folders:
            return True
        key = parent(key)
    return False


def put_folder(path: bytes, entry: Entry, out: Output, *, opaque: bool) -> None:
    """Write a folder."""
    plain = tarwrite.headers(path, entry)
    if opaque:
        marked = replace(entry, xattrs=tuple(sorted((*entry.xattrs, OPAQUE_XATTR))))
        out.either(tarwrite.headers(path, marked), plain)
    else:
        out.both(plain)


def put_mark(path: bytes, out: Output) -> None:
    """Write what stands for a deleted file, or the mark of an opaque folder."""
    folder, slash, name = path.rpartition(b"/")
    native = b""
    if name != OPAQUE:
        native = tarwrite.headers(folder + slash + name[len(WHITEOUT) :], tarwrite.whiteout())
    out.either(native, tarwrite.headers(path, MARK))


def check_device(path: bytes, entry: Entry) -> None:
    """Check that EROFS can have a device's number; raises ImageError."""
    major, minor = entry.device
    if not (0 <= major <= LAST_MAJOR and 0 <= minor <= LAST_MINOR):
        raise ImageError(f"'{shown(path)}' in the archive is device {major}:{minor}, out of range")


def put_contents(source: Source, path: bytes, entry: Entry, out: Output) -> None:
    """Write a file's contents, holes filled with zeros, and what fills up the last block."""
    for piece in _pieces(source, path, entry):
        out.both(piece)
    if rest := tarwrite.padding(entry.size):
        out.both(rest)


def _pieces(source: Source, path: bytes, entry: Entry) -> Iterator[bytes]:
    if entry.pieces is None:
        yield from _read(source, path, entry.data, entry.size)
        return
    position, data = 0, entry.data
    for at in range(0, len(entry.pieces), 2):
        offset, size = entry.pieces[at], entry.pieces[at + 1]
        yield from _zeros(offset - position)
        yield from _read(source, path, data, size)
        position, data = offset + size, data + size
    yield from _zeros(entry.size - position)


def _read(source: Source, path: bytes, offset: int, size: int) -> Iterator[bytes]:
    end = offset + size
    while offset < end:
        piece = source.read(offset, min(PIECE, end - offset))
        if not piece:
            raise tarread.damaged(f"it ends within the contents of '{shown(path)}'")
        offset += len(piece)
        yield piece


def _zeros(size: int) -> Iterator[bytes]:
    while size > 0:
        yield bytes(min(size, PIECE))
        size -= PIECE
