"""Move changes to a newer base: what both sides have changed is a conflict, and is said.

Three trees are compared, path by path: the old base, the changes on it, and the new base. What the
changes only carry along (the folders above a changed file) follows the new base. A folder that they
have replaced (an opaque one) shows nothing of the new base either.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import IO, TYPE_CHECKING

from apppot.errors import AppPotError, ExitStatus, ImageError, UsageError
from apppot.image import changefile, changes, entries, pressing, saving, store, tarstream, tartree
from apppot.image.entries import Item, Listing, below, is_folder, text
from apppot.image.tarread import FOLDER, Entry, Source
from apppot.image.tartree import MARK, OPAQUE, WHITEOUT, join, parent

if TYPE_CHECKING:
    from apppot.image.changes import Subject
    from apppot.image.model import Image
    from apppot.image.pressing import Pressing


class Take(StrEnum):
    """Whose version of a conflicting file is kept: the changes', or the new base's."""

    OURS = "ours"
    THEIRS = "theirs"


@dataclass(frozen=True)
class Rebased:
    """How it went: the conflicts (paths), and the size of the result if there is one."""

    conflicts: tuple[str, ...]
    made: str = ""


@dataclass
class Plan:
    """The changes to the new base: entries of the old changes' archive, and deletions."""

    tree: dict[bytes, Entry] = field(default_factory=dict)
    conflicts: set[bytes] = field(default_factory=set)
    kept: set[bytes] = field(default_factory=set)  # of the new base, against the changes

    def keep(self, key: bytes) -> None:
        """Let the new base's file be there, and so the folders above it."""
        self.kept.update((key, *_above(key)))


def rebase(
    name: str,
    onto: str,
    *,
    image: str = "",
    file: str = "",
    take: Take | None = None,
    force: bool,
    base: str = "",
) -> Rebased:
    """Move the changes in a file, or in an image that was made from `base`, to the image `onto`.

    The result is an image or a file. With conflicts and without `take`, nothing is written: the
    error names them. Raises AppPotError.
    """
    subject = _subject(name, base)
    new = store.resolve(onto)
    if file:
        changes.check_target(file)
        pressing.require(_pressing(subject).method)
    old_files, new_files = entries.of_layers(subject.below), entries.of_layers(new.layers)
    with changes.archived(subject) as archive:
        source = Source(archive)
        tree = tartree.read(source, None)
        own, _, _ = entries.of_tree(source, tree)
        planned = plan(tree, own, old_files, new_files, take)
        conflicts = tuple(sorted(map(text, planned.conflicts)))
        if conflicts and not take:
            raise refused(subject, new, conflicts)
        with changes.temporary() as target:
            tarstream.write_tree(source, planned.tree, target)
            target.flush()
            target.seek(0)
            made = _write(subject, new, target, image, file, force=force)
    return Rebased(conflicts, made)


def _subject(name: str, base: str) -> Subject:
    if changefile.is_changes(name) or "/" in name[:2]:
        if base:
            raise UsageError(f"{name} says itself what its base is", hint="leave --base out")
        return changes.of_file(name)
    return changes.of_image(name, base)


def _pressing(subject: Subject) -> Pressing:
    """Return how a file of the moved changes is compressed: as the one that they come from."""
    (layer, *_) = subject.own
    if changefile.is_changes(layer.path):
        return pressing.of_file(layer.path)
    return pressing.wanted()


def _write(
    subject: Subject, new: Image, archive: IO[bytes], image: str, file: str, *, force: bool
) -> str:
    if file:
        how = _pressing(subject)
        changes.write(file, archive, changes.base_of(new), subject.config, how=how)
        return file
    saved = saving.store_changes(
        image,
        new,
        archive,
        history=f"apppot rebase {subject.name} {new.name}",
        replace_=force,
        config=changes.with_layers(subject.config, saving.configuration(new)),
    )
    return saved.name


def refused(subject: Subject, new: Image, conflicts: tuple[str, ...]) -> AppPotError:
    """Return the error that names the conflicts."""
    shown = "".join(f"\n  {path!r}" for path in conflicts)
    return ImageError(
        f"{subject.name} and {new.name} have both changed {len(conflicts)} paths of"
        f" {subject.base.name}; nothing was written:{shown}",
        hint="--take ours keeps the changes' versions, --take theirs those of the new base",
        status=ExitStatus.CONFLICT,
    )


def plan(
    tree: dict[bytes, Entry], own: Listing, old: Listing, new: Listing, take: Take | None
) -> Plan:
    """Return what the changes are on the new base; see the module's text for the rules.

    `own` has the items of the tree's entries.
    """
    made = Plan()
    replaced = {parent(key) for key, e in tree.items() if e is MARK and _name(key) == OPAQUE}
    lost: set[bytes] = set()  # folders of ours that the new base has as something else
    linked = _linked(own, tree)
    single = own.keys() - {key for keys in linked for key in keys}
    touched = {key for key in _as_before(single, own, old) if replaced.isdisjoint(_above(key))}
    for key in sorted(own.keys() - touched):  # what is only touched follows the new base
        if lost.isdisjoint(_above(key)) and not _merged(made, key, own[key], tree, old, new):
            made.conflicts.add(key)
            if take is Take.OURS:
                made.tree[key] = tree[key]
                if is_folder(own[key]) and not is_folder(new.get(key)):
                    made.tree[join(key, OPAQUE)] = MARK
            else:
                made.keep(key)
                if is_folder(own[key]) and not is_folder(new.get(key)):
                    lost.add(key)
    _delete(made, _deleted(tree, own, old), replaced, own, old, new, take)
    for folder in replaced:
        if lost.isdisjoint((folder, *_above(folder))):
            _hide(made, folder, own, tree, new)
    _link(made, linked, own, tree, new)
    _carry(made, own, tree, new)
    return made


def _linked(own: Listing, tree: dict[bytes, Entry]) -> list[list[bytes]]:
    """Return the names of each file of the changes that has several."""
    names: dict[int, list[bytes]] = {}
    for key in own:
        names.setdefault(id(tree[key]), []).append(key)
    return [keys for keys in names.values() if len(keys) > 1]


def _as_before(keys: set[bytes], own: Listing, old: Listing) -> set[bytes]:
    """Return the files of the changes that are as in the old base."""
    return {key for key in keys if own[key] == old.get(key) and not is_folder(own[key])}


def _merged(
    made: Plan, key: bytes, ours: Item, tree: dict[bytes, Entry], old: Listing, new: Listing
) -> bool:
    """Add a path of the changes if need be; tell whether the new base lets it."""
    was, is_now = old.get(key), new.get(key)
    if is_folder(ours) and ours == was and (is_now is None or is_folder(is_now)):
        return True  # only carried along: see _carry
    if is_now not in (was, ours) and not (is_folder(ours) and is_now is None):
        return False
    if is_now != ours:
        made.tree[key] = tree[key]
    if is_folder(is_now) and not is_folder(ours):
        made.conflicts.update(k for k in below(new, key) if new[k] != old.get(k))
    return True


def _deleted(tree: dict[bytes, Entry], own: Listing, old: Listing) -> set[bytes]:
    """Return every path of the old base that the changes delete."""
    gone: set[bytes] = set()
    for key, entry in tree.items():
        if entry is not MARK:
            continue
        folder, name = parent(key), _name(key)
        if name == OPAQUE:
            gone.update(below(old, folder))
        else:
            victim = join(folder, name[len(WHITEOUT) :])
            gone.update((victim, *below(old, victim)))
    for key, ours in own.items():
        if is_folder(old.get(key)) and not is_folder(ours):
            gone.update(below(old, key))
    return {key for key in gone if key in old and key not in own}


def _delete(
    made: Plan,
    deleted: set[bytes],
    replaced: set[bytes],
    own: Listing,
    old: Listing,
    new: Listing,
    take: Take | None,
) -> None:
    """Add the deletions of what the new base still has."""
    for key in sorted(deleted, reverse=True):  # what is in a folder comes before the folder
        if key not in new:
            continue
        added = []
        if is_folder(new[key]) and replaced.isdisjoint(_above(key)):
            added = [k for k in below(new, key) if k not in old]
        if new[key] != old[key] or added:
            made.conflicts.update(added)
            if new[key] != old[key]:
                made.conflicts.add(key)
            if take is not Take.OURS:
                made.keep(key)
                continue
        if key in made.kept or any(
            up in made.tree and not is_folder(own.get(up)) for up in _above(key)
        ):
            continue
        made.tree[_mark(key)] = MARK
    _tidy(made)


def _hide(made: Plan, folder: bytes, own: Listing, tree: dict[bytes, Entry], new: Listing) -> None:
    """Let a folder that the changes have replaced show nothing of the new base but what is kept."""
    if folder in made.kept:
        for key in below(new, folder):
            if key not in own and key not in made.kept:
                made.tree[_mark(key)] = MARK
        _tidy(made)
        return
    for key in [k for k, e in made.tree.items() if e is MARK and folder in _above(k)]:
        del made.tree[key]
    made.tree[join(folder, OPAQUE)] = MARK
    for key in below(own, folder):
        made.tree[key] = tree[key]  # also what the new base has just so


def _tidy(made: Plan) -> None:
    """Remove the deletions in deleted folders."""
    for key in [k for k, entry in made.tree.items() if entry is MARK]:
        if any(_mark(up) in made.tree for up in _above(key)):
            del made.tree[key]  # it goes with its folder


def _link(
    made: Plan, linked: list[list[bytes]], own: Listing, tree: dict[bytes, Entry], new: Listing
) -> None:
    """Let a file of the changes keep those of its names that the new base has just so."""
    for keys in linked:
        if any(key in made.tree for key in keys):
            made.tree.update((key, tree[key]) for key in keys if own[key] == new.get(key))


def _carry(made: Plan, own: Listing, tree: dict[bytes, Entry], new: Listing) -> None:
    """Add the folders above what is changed, as the new base has them, or else as ours."""
    for key in list(made.tree):
        for up in _above(key):
            if up in made.tree:
                continue
            there = new.get(up)
            if there is not None and is_folder(there):
                made.tree[up] = Entry(FOLDER, there.mode, there.uid, there.gid, xattrs=there.xattrs)
                times = tree.get(up)
                if times is not None:
                    made.tree[up].mtime, made.tree[up].nanoseconds = times.mtime, times.nanoseconds
            elif up in own:
                made.tree[up] = tree[up]


def _mark(key: bytes) -> bytes:
    """Return the key of what deletes a path."""
    return join(parent(key), WHITEOUT + _name(key))


def _name(key: bytes) -> bytes:
    return key.rpartition(b"\0")[2]


def _above(key: bytes) -> list[bytes]:
    """Return the folders that a path is in, without the root."""
    found = []
    while key := parent(key):
        found.append(key)
    return found
