"""Bring an archive into a layer's form while it arrives, if it has its files in order.

The agent's archives of changes do. What tarstream.normalise can do only once it knows the whole
archive is left to it: then this raises DisorderError, and the archive has to come again.
"""

from __future__ import annotations

from dataclasses import replace
from typing import IO, TYPE_CHECKING

from apppot.errors import ImageError
from apppot.image import tarread, tarstream, tartree, tarwrite
from apppot.image.tarread import CHARACTER, FOLDER, HARD_LINK, LAST_SIZE, Entry, Source, shown
from apppot.image.tarstream import Normalised, Output
from apppot.image.tartree import MARK, MOST_ENTRIES, OPAQUE, WHITEOUT, join, parent

if TYPE_CHECKING:
    from collections.abc import Iterator

_SKIPPED = 1 << 20


class DisorderError(ImageError):
    """The archive is not in order, or its marks need to be looked at all together."""

    def __init__(self, key: bytes) -> None:
        super().__init__(f"'{shown(key)}' in the archive is not in order")


class Flow(Source):
    """An archive that is read once, from its beginning to its end."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.size = LAST_SIZE  # nobody knows yet
        self._place = 0

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes, or fewer at the end; what is before `offset` is gone."""
        if offset < self._place:
            raise tarread.damaged("a part of it would be needed twice")
        while self._place < offset:
            skipped = self.file.read(min(offset - self._place, _SKIPPED))
            if not skipped:
                return b""
            self._place += len(skipped)
        data = self.file.read(size)
        self._place += len(data)
        return data

    def drain(self) -> None:
        """Read up to the end."""
        while self.file.read(_SKIPPED):
            pass


def pass_on(
    source: Flow,
    entries: Iterator[tuple[bytes, Entry]],
    target: IO[bytes],
    *,
    limit: int = 0,
) -> Normalised:
    """Write what arrives to `target`, as tarstream.normalise does; raises ImageError.

    `entries` are those of `source`; `limit` is the most bytes to write.
    """
    passing = _Passing(source, Output(target, None, limit))
    for name, entry in entries:
        passing.take(tartree.key_of(name), entry)
    return passing.finish()


class _Passing:
    """What is known of the entries that have been, and what waits to be written."""

    def __init__(self, source: Flow, out: Output) -> None:
        self._source, self._out = source, out
        self._growing = tartree.Growing()  # has the entries
        self._last: bytes | None = None
        self._folders: set[bytes] = set()
        self._marks: set[bytes] = set()
        self._opaque: set[bytes] = set()
        self._first: dict[int, bytes] = {}  # the first names of files that have several
        self._folder: tuple[bytes, Entry] | None = None  # until it is known whether it is opaque
        self._mark: bytes | None = None  # an opaque folder's, which comes before its place
        self._count = 0

    def take(self, key: bytes, entry: Entry) -> None:
        """Write an entry, or let it wait; raises ImageError."""
        self._growing.count(key, entry)
        if entry.kind == CHARACTER or WHITEOUT in key:
            deleted = tartree.deleted(key, entry)
            if deleted is None:
                return
            key, entry = deleted
        if entry is MARK and key.endswith(OPAQUE):
            self._hide(key)
            return
        if self._last is None and key:
            self._hold(b"", tarstream.FOLDER_ENTRY)
        self._release()
        self._put_mark(key)
        self._check(key, entry)
        self._growing.tree[key] = entry
        if entry.kind == FOLDER:
            self._hold(key, entry)
            return
        self._last = key
        self._write(key, entry)

    def finish(self) -> Normalised:
        """Write what waits, and the end."""
        if self._last is None:
            self._hold(b"", tarstream.FOLDER_ENTRY)
        self._release()
        self._put_mark(None)
        self._source.drain()
        self._out.both(tarwrite.END)
        self._out.flush()
        return Normalised(self._count, f"sha256:{self._out.state.hexdigest()}")

    def _counted(self) -> None:
        self._count += 1
        if self._count > MOST_ENTRIES:
            raise ImageError(f"the archive has more than {MOST_ENTRIES} files and folders")

    def _check(self, key: bytes, entry: Entry) -> None:
        """Check that an entry is where it is expected."""
        if self._last is not None and key <= self._last:
            raise DisorderError(key)
        folder, _, name = key.rpartition(b"\0")
        if key and (folder not in self._folders or join(folder, WHITEOUT + name) in self._marks):
            raise DisorderError(key)
        if entry is MARK and (
            join(folder, name[len(WHITEOUT) :]) in self._growing.tree
            or (self._opaque and tarstream.inside(folder, self._opaque))
        ):
            raise DisorderError(key)

    def _hold(self, key: bytes, entry: Entry) -> None:
        self._folders.add(key)
        self._last = key
        self._folder = key, entry

    def _hide(self, key: bytes) -> None:
        """Let the folder that waits be opaque."""
        folder = parent(key)
        if self._folder is None or self._folder[0] != folder:
            raise DisorderError(key)
        if tarstream.inside(folder, self._opaque):
            raise DisorderError(key)
        self._opaque.add(folder)
        self._mark = key
        self._release()

    def _release(self) -> None:
        """Write the folder that waits."""
        if self._folder is None:
            return
        key, entry = self._folder
        self._folder = None
        self._counted()
        path = key.replace(b"\0", b"/") or b"."
        tarstream.put_folder(path, entry, self._out, opaque=key in self._opaque)

    def _put_mark(self, key: bytes | None) -> None:
        """Write an opaque folder's mark, if its place is before this one; None: the end."""
        mark = self._mark
        if mark is None or (key is not None and key < mark):
            return
        self._mark = None
        self._counted()
        tarstream.put_mark(mark.replace(b"\0", b"/"), self._out)

    def _write(self, key: bytes, entry: Entry) -> None:
        self._counted()
        path = key.replace(b"\0", b"/")
        if entry is MARK:
            self._marks.add(key)
            tarstream.put_mark(path, self._out)
        elif entry.kind == HARD_LINK:
            self._link(key, path, entry)
        else:
            tarstream.check_device(path, entry)
            self._out.both(tarwrite.headers(path, entry))
            tarstream.put_contents(self._source, path, entry, self._out)

    def _link(self, key: bytes, path: bytes, entry: Entry) -> None:
        target = tartree.key_of(entry.link)
        there = self._growing.tree.get(target)
        if there is None or there is MARK or there is entry or there.kind == FOLDER:
            raise DisorderError(key)
        name = self._first.setdefault(id(there), target.replace(b"\0", b"/"))
        self._growing.tree[key] = there
        again = replace(there, kind=HARD_LINK, link=name, size=0)
        self._out.both(tarwrite.headers(path, again))
