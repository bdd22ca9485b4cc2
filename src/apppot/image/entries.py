"""List what is in layers, as their archives tell, and compare two listings.

An archive is read while the machine writes it, so that a base of any size needs no room.
"""

from __future__ import annotations

import hashlib
import os
import threading
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from apppot import worker
from apppot.errors import ImageError
from apppot.image import tarread, tartree
from apppot.image.tarread import FILE, FOLDER, HARD_LINK, Source
from apppot.image.tartree import MARK, OPAQUE, WHITEOUT, join

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from apppot.image.model import Layer
    from apppot.image.tarread import Entry

_PIECE = 1 << 20
_KINDS = {
    tarread.FILE: "file",
    tarread.SYMLINK: "symlink",
    tarread.CHARACTER: "device",
    tarread.BLOCK_DEVICE: "device",
    tarread.FOLDER: "folder",
    tarread.FIFO: "fifo",
}


@dataclass(frozen=True)
class Item:
    """A file as far as it can be told from another; its time is no difference."""

    kind: int
    mode: int
    uid: int
    gid: int
    size: int = 0
    link: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    digest: bytes = b""

    @property
    def word(self) -> str:
        """What kind of file it is, as a word."""
        return _KINDS[self.kind]


Listing = dict[bytes, Item]  # by key: see tartree


class Flow(Source):
    """An archive that comes through a pipe: places are read once, in their order."""

    def __init__(self, pipe: IO[bytes]) -> None:
        self.file, self.descriptor = pipe, -1
        self.size = tarread.LAST_SIZE
        self._place = 0
        self._ahead = b""
        self._ahead_at = 0

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes, or fewer at the end."""
        if offset < self._place:
            held = self._ahead[offset - self._ahead_at :] if offset >= self._ahead_at else b""
            if len(held) < size:
                raise ImageError("the archive cannot be read backwards")
            return held[:size]
        while self._place < offset:
            if not self._next(min(_PIECE, offset - self._place)):
                return b""
        data = self._next(size)
        self._ahead, self._ahead_at = data, offset
        return data

    def _next(self, size: int) -> bytes:
        data = self.file.read(size)
        self._place += len(data)
        return data


def of_layers(layers: Sequence[Layer]) -> Listing:
    """Return all files of a stack of layers, together with their contents' digests.

    Raises AppPotError.
    """
    return _piped(lambda end: worker.archive(layers, ("tree", "."), end))


def of_archive(file: IO[bytes]) -> tuple[Listing, set[bytes], set[bytes]]:
    """Return files, deleted paths and opaque folders of an archive in OCI's form."""
    source = Source(file)
    return of_tree(source, tartree.read(source, None))


def of_tree(source: Source, tree: dict[bytes, Entry]) -> tuple[Listing, set[bytes], set[bytes]]:
    """Return files, deleted paths and opaque folders of a tree; see tartree.read."""
    found: Listing = {}
    deleted: set[bytes] = set()
    opaque: set[bytes] = set()
    for key, entry in tree.items():
        if entry is not MARK:
            found[key] = item(source, entry)
            continue
        folder, _, name = key.rpartition(b"\0")
        if name == OPAQUE:
            opaque.add(folder)
        else:
            deleted.add(join(folder, name[len(WHITEOUT) :]))
    return found, deleted, opaque


def item(source: Source, entry: Entry) -> Item:
    """Return what an entry is, its contents read."""
    return Item(
        entry.kind,
        entry.mode,
        entry.uid,
        entry.gid,
        entry.size if entry.kind == FILE else 0,
        entry.link,
        entry.device,
        entry.xattrs,
        _digest(source, entry) if entry.kind == FILE else b"",
    )


def _digest(source: Source, entry: Entry) -> bytes:
    """Return the digest of a file's contents; holes count as the zeros that they are."""
    state = hashlib.sha256()
    pieces = entry.pieces if entry.pieces is not None else (0, entry.size)
    position, data = 0, entry.data
    for at in range(0, len(pieces), 2):
        offset, size = pieces[at], pieces[at + 1]
        _zeros(state.update, offset - position)
        position = offset + size
        while size > 0:
            piece = source.read(data, min(_PIECE, size))
            if not piece:
                raise tarread.damaged("it ends within a file's contents")
            state.update(piece)
            data += len(piece)
            size -= len(piece)
    _zeros(state.update, entry.size - position)
    return state.digest()


def _zeros(update: Callable[[bytes], None], size: int) -> None:
    while size > 0:
        update(bytes(min(size, _PIECE)))
        size -= _PIECE


def _piped(make: Callable[[int], None]) -> Listing:
    """Read the archive that `make` writes to a descriptor, while it does."""
    reader, end = os.pipe2(os.O_CLOEXEC)
    found: Listing = {}
    errors: list[Exception] = []

    def read() -> None:
        with open(reader, "rb", buffering=_PIECE) as pipe:
            try:
                source = Flow(pipe)
                for key, entry in _entries(source):
                    found[key] = (
                        found[b"\0".join(_parts(entry.link))]
                        if entry.kind == HARD_LINK
                        else item(source, entry)
                    )
            except (ImageError, KeyError, OSError) as error:
                errors.append(error)
            while pipe.read(_PIECE):
                pass  # the writer must not be ended by a pipe that nobody reads

    thread = threading.Thread(target=read)
    thread.start()
    try:
        make(end)
    finally:
        os.close(end)
        thread.join()
    if errors:
        raise ImageError(f"the layers cannot be listed: {errors[0]}") from errors[0]
    return found


def _entries(source: Source) -> Iterator[tuple[bytes, Entry]]:
    for name, entry in tarread.entries(source):
        yield b"\0".join(_parts(name)), entry


def _parts(name: bytes) -> list[bytes]:
    return [part for part in name.split(b"/") if part and part != b"."]


def text(key: bytes) -> str:
    """Return a key as a path for people and for JSON."""
    return key.replace(b"\0", b"/").decode("utf-8", "surrogateescape") or "."


def below(listing: Listing, folder: bytes) -> Iterator[bytes]:
    """Yield all paths in a folder."""
    begin = folder + b"\0" if folder else b""
    return (key for key in listing if key.startswith(begin) and key != folder)


def is_folder(found: Item | None) -> bool:
    """Tell whether there is a folder."""
    return found is not None and found.kind == FOLDER
