"""Read a tar archive into one tree: the last entry of each path, hard links led to their files.

Keys are paths with NUL for '/', so that their order is that of the components.

A hard link may lead to a file of a lower layer. It acts on all layers together, as it does where a
container engine unpacks them: the file is in the new layer, too, under both names.
"""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

from apppot.errors import ImageError
from apppot.image import tarread
from apppot.image.tarread import CHARACTER, FILE, FOLDER, HARD_LINK, Entry, Part, shown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from apppot.image.tarread import Source

LONGEST_COMPONENT = 255
LONGEST_PATH = 4095
MOST_ENTRIES = 1 << 21
MOST_NAMES = 256 << 20  # bytes of paths and attributes, all together: they are kept in memory
MOST_TURNS = 64  # of folders into files within one archive
WHITEOUT = b".wh."
OPAQUE = b".wh..wh..opq"
MARK = Entry(FILE)  # stands for everything that deletes
_OVERLAY = b"trusted.overlay."


class LinksBelowError(ImageError):
    """Hard links lead to files that only a lower layer could have; `paths` are theirs."""

    def __init__(self, links: Mapping[bytes, bytes]) -> None:
        super().__init__(_no_file(*next(iter(links.items()))).message)
        self.paths = tuple(key.replace(b"\0", b"/") for key in dict.fromkeys(links.values()))


def part(whole: IO[bytes], begin: int, end: int) -> dict[bytes, Entry]:
    """Return the tree of an archive in a file, with the places of contents in the whole file."""
    tree = read(Part(whole, begin, end), None)
    for entry in {id(entry): entry for entry in tree.values() if entry is not MARK}.values():
        entry.data += begin
    return tree


def read(
    source: Source,
    without: Callable[[str], bool] | None,
    below: Mapping[bytes, Entry] | None = None,
) -> dict[bytes, Entry]:
    """Return the archive's last entry for each path, hard links led to files; raises ImageError.

    `below` has the files of lower layers that hard links lead to, and the folders above them.
    Without it, such links raise LinksBelowError.
    """
    growing = Growing()
    for name, entry in tarread.entries(source):
        key = key_of(name)
        if without and key and without(_text(key)):
            continue
        growing.count(key, entry)
        if not key and entry.kind != FOLDER:
            raise ImageError("the archive's topmost entry is not a folder")
        place: tuple[bytes, Entry] | None = key, entry
        if entry.kind == CHARACTER or WHITEOUT in key:
            place = deleted(key, entry)
        if place is None:
            continue
        if place[1].kind == HARD_LINK:
            growing.link(key, key_of(entry.link), entry)
        else:
            growing.add(*place)
    _lead(growing, below)
    return growing.tree


class Growing:
    """The tree while it is read; `pending` are hard links to files that are not in it yet.

    `cut_off` are those of them that cannot lead to a lower layer's: it was hidden when they came.
    """

    def __init__(self) -> None:
        self.tree: dict[bytes, Entry] = {}
        self.pending: dict[bytes, bytes] = {}
        self.cut_off: set[bytes] = set()
        self.names = self.turns = 0

    def count(self, key: bytes, entry: Entry) -> None:
        """Take what an entry needs into account; raises ImageError if that is too much."""
        if entry.xattrs:
            entry.xattrs = tuple(x for x in entry.xattrs if not x[0].startswith(_OVERLAY))
            self.names += sum(len(a) + len(v) + 100 for a, v in entry.xattrs)
        self.names += len(key) + len(entry.link) + (16 * len(entry.pieces) if entry.pieces else 0)
        if len(self.tree) >= MOST_ENTRIES or self.names > MOST_NAMES:
            raise ImageError(f"the archive has more than {len(self.tree)} files, which is too many")

    def add(self, key: bytes, entry: Entry) -> None:
        """Let an entry stand for its path; a folder's contents stay if it is a folder again."""
        old = self.tree.get(key)
        if old is not None and old.kind == FOLDER and entry.kind != FOLDER:
            self._clear(key)
        if self.pending:
            self.pending.pop(key, None)
        self.tree[key] = entry

    def link(self, key: bytes, target: bytes, entry: Entry) -> None:
        """Let a path be another name of a file, if it is there already."""
        if key == target:
            return
        there = self.tree.get(target)
        if there is None or there.kind in {HARD_LINK, FOLDER}:
            self.add(key, entry)
            self.pending[key] = target
            self.cut_off.discard(key)
            if _hidden(self.tree, target):
                self.cut_off.add(key)
        else:
            there.shared = True
            self.add(key, there)

    def _clear(self, key: bytes) -> None:
        """Remove what is in a folder that a file takes the place of."""
        self.turns += 1
        if self.turns > MOST_TURNS:
            raise ImageError("the archive turns folders into files again and again")
        begin = key + b"\0"
        for below in [path for path in self.tree if path.startswith(begin)]:
            del self.tree[below]
            self.pending.pop(below, None)


def key_of(name: bytes) -> bytes:
    """Return a name's key; raises ImageError."""
    parts = [part for part in name.split(b"/") if part and part != b"."]
    if b".." in parts:
        raise ImageError(f"'{shown(name)}' in the archive leads out of it")
    if b"\0" in name:
        raise ImageError(f"'{shown(name)}' in the archive has a NUL in its name")
    if len(name) > LONGEST_COMPONENT:
        for part in parts:
            if len(part) > LONGEST_COMPONENT:
                raise ImageError(
                    f"a name in the archive is longer than {LONGEST_COMPONENT} bytes:"
                    f" {shown(name)[:60]}..."
                )
        if len(name) > LONGEST_PATH:
            raise ImageError(
                f"a path in the archive is longer than {LONGEST_PATH} bytes: {shown(name)[:60]}..."
            )
    return b"\0".join(parts)


def _text(key: bytes) -> str:
    return key.replace(b"\0", b"/").decode("utf-8", "surrogateescape")


def parent(key: bytes) -> bytes:
    """Return the key of the folder that a path is in."""
    return key.rpartition(b"\0")[0]


def join(folder: bytes, name: bytes) -> bytes:
    """Return the key of a name in a folder."""
    return folder + b"\0" + name if folder else name


def deleted(key: bytes, entry: Entry) -> tuple[bytes, Entry] | None:
    """Return key and entry of a mark, in OCI's form; None if it is to be left out."""
    *folders, name = key.split(b"\0")
    if any(part.startswith(WHITEOUT) for part in folders):
        if any(part.startswith(WHITEOUT * 2) for part in folders):
            return None  # what AUFS kept for itself
        raise ImageError(f"'{shown(key)}' in the archive lies below a mark for a deleted file")
    if entry.kind == CHARACTER and entry.device == (0, 0):
        return join(parent(key), WHITEOUT + name), MARK  # overlayfs's own form
    if name == OPAQUE and not folders:
        raise ImageError(
            "the archive deletes everything that is below it: such a layer cannot be stacked"
        )
    if name.startswith(WHITEOUT * 2):
        return (key, MARK) if name == OPAQUE else None
    if name.startswith(WHITEOUT):
        if name[len(WHITEOUT) :] in {b"", b".", b".."}:
            raise ImageError(f"'{shown(key)}' in the archive deletes no file")
        return key, MARK
    return key, entry


def _lead(growing: Growing, below: Mapping[bytes, Entry] | None) -> None:
    """Let the hard links that are pending be the files that they lead to; raises ImageError."""
    tree, pending = growing.tree, growing.pending
    missing: dict[bytes, bytes] = {}
    for key in list(pending):
        trail: dict[bytes, None] = {}
        here = last = key
        while here in pending and here not in trail:
            trail[here] = None
            last, here = here, pending[here]
        there = tree.get(here)
        if there is None and last in growing.cut_off:
            raise _no_file(key, here, "which the same layer deletes")
        if there is None and below is None:
            missing[key] = here
            continue
        if there is None and below is not None:
            there = _copied_up(tree, here, below)
        if there is None or there.kind in {HARD_LINK, FOLDER} or there is MARK:
            where = "" if below is None else ", here or in the layers below"
            raise _no_file(key, here, f"which is no file{where}")
        there.shared = True
        for name in trail:
            tree[name] = there
            del pending[name]
    if missing:
        raise LinksBelowError(missing)


def _copied_up(tree: dict[bytes, Entry], key: bytes, below: Mapping[bytes, Entry]) -> Entry | None:
    """Return a lower layer's file, which is in this layer now, unless that has deleted it since."""
    found = below.get(key)
    if found is None or found.kind == FOLDER or _hidden(tree, key):
        return found
    tree[key] = found
    while key := parent(key):
        if key in below:
            tree.setdefault(key, below[key])
    return found


def _hidden(tree: Mapping[bytes, Entry], key: bytes) -> bool:
    """Tell whether a layer hides what lower ones have at a path."""
    while key:
        folder, _, name = key.rpartition(b"\0")
        above = tree.get(folder)
        if above is not None and above.kind != FOLDER:
            return True
        if join(folder, WHITEOUT + name) in tree or join(folder, OPAQUE) in tree:
            return True
        key = folder
    return False


def _no_file(key: bytes, target: bytes, why: str = "which is no file") -> ImageError:
    folder = parent(target)
    return ImageError(
        f"'{shown(key)}' in the archive is a hard link to '{shown(target)}', {why}",
        hint=f"if '{shown(folder)}' is a symbolic link or below one, make the layer again with the"
        " file's real path, or make one layer of all: podman create, podman export, apppot import"
        if folder
        else "",
    )
