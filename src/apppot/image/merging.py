"""Stack the archives of several layers into the archive of one, by the rules of OCI layers."""

from __future__ import annotations

from typing import IO, TYPE_CHECKING

from apppot.image import tarstream, tartree
from apppot.image.tarread import FOLDER, Source
from apppot.image.tartree import MARK, OPAQUE, WHITEOUT, join, parent

if TYPE_CHECKING:
    from collections.abc import Sequence

    from apppot.image.tarread import Entry

Tree = dict[bytes, "Entry"]


def merge(whole: IO[bytes], parts: Sequence[tuple[int, int]], target: IO[bytes]) -> None:
    """Write the archive of all parts of a file, the lowest first, stacked; raises ImageError."""
    trees = [tartree.part(whole, begin, end) for begin, end in parts]
    tree = trees[0]
    for upper in trees[1:]:
        stack(tree, upper)
    tarstream.write_tree(Source(whole), tree, target)
    target.flush()


def stack(tree: Tree, upper: Tree) -> None:
    """Put a layer on top of others; what it deletes stays marked for the base below all."""
    for key, entry in sorted(upper.items()):
        if entry is not MARK:
            continue
        folder, _, name = key.rpartition(b"\0")
        if name == OPAQUE:
            _clear(tree, folder)
        else:
            victim = join(folder, name[len(WHITEOUT) :])
            _clear(tree, victim)
            tree.pop(victim, None)
        tree[key] = MARK
    for key, entry in sorted(upper.items()):
        if entry is MARK:
            continue
        old = tree.get(key)
        if old is not None and old.kind == FOLDER and entry.kind != FOLDER:
            _clear(tree, key)
        if old is not None and old.kind != FOLDER and entry.kind == FOLDER:
            # The base may have a folder here, which the file hid.
            tree[join(key, OPAQUE)] = MARK
        above = join(parent(key), WHITEOUT + key.rpartition(b"\0")[2])
        if above in tree and above not in upper:
            del tree[above]
            if entry.kind == FOLDER:
                tree[join(key, OPAQUE)] = MARK
        tree[key] = entry


def _clear(tree: Tree, folder: bytes) -> None:
    """Remove all that is in a folder."""
    begin = folder + b"\0" if folder else b""
    for below in [key for key in tree if key.startswith(begin) and key != folder]:
        del tree[below]
