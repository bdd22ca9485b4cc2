"""Say what changes change: which files they add, change and delete."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from apppot.image import changes, entries
from apppot.image.entries import below, is_folder, text
from apppot.image.sizes import human

if TYPE_CHECKING:
    from apppot.image.changefile import Base
    from apppot.image.changes import Subject
    from apppot.image.entries import Item, Listing


class What(StrEnum):
    """What became of a path. `set`: added or changed; the base is not there to tell."""

    ADDED = "added"
    CHANGED = "changed"
    DELETED = "deleted"
    SET = "set"


_LETTERS = {What.ADDED: "A", What.CHANGED: "C", What.DELETED: "D", What.SET: "?"}


@dataclass(frozen=True)
class Change:
    """One changed path; `kind` and `size` (of a file, in bytes) are the new ones."""

    path: str
    what: What
    kind: str = ""
    size: int = 0

    def json(self) -> dict[str, Any]:
        """Return the change for machines to read."""
        return {"path": self.path, "change": self.what, "kind": self.kind, "size": self.size}


def show(subject: Subject) -> list[Change]:
    """Return all changes of a subject, sorted by path; raises AppPotError.

    Without the base's layers it is not told whether a path was added or changed.
    """
    with changes.archived(subject) as archive:
        own, deleted, opaque = entries.of_archive(archive)
    base = entries.of_layers(subject.below) if subject.below else None
    found = list(compared(own, deleted, opaque, base))
    return sorted(found, key=lambda change: change.path)


def compared(
    own: Listing, deleted: set[bytes], opaque: set[bytes], base: Listing | None
) -> list[Change]:
    """Return what a layer's files, deletions and opaque folders do to a base."""
    found = []
    for key, new in own.items():
        old = base.get(key) if base is not None else None
        if base is None:
            if not (is_folder(new) and any(True for _ in below(own, key))):
                found.append(_change(key, What.SET, new))
        elif old is None:
            found.append(_change(key, What.ADDED, new))
        elif old != new:
            found.append(_change(key, What.CHANGED, new))
    gone = set(deleted)
    if base is not None:
        for folder in opaque:
            gone.update(key for key in below(base, folder) if key not in own)
        for path in deleted:
            gone.update(below(base, path))
        gone = {key for key in gone if key in base and key not in own}
    found += [
        Change(text(key), What.DELETED, base[key].word if base is not None else "") for key in gone
    ]
    return found


def _change(key: bytes, what: What, new: Item) -> Change:
    return Change(text(key), what, new.word, new.size)


def lines(found: list[Change]) -> str:
    """Return the changes as text, one a line; control characters in names are escaped."""
    return "".join(
        f"{_LETTERS[change.what]}  {human(change.size) if change.kind == 'file' else '':>8}"
        f"  {_plain(change.path)}{'/' if change.kind == 'folder' else ''}\n"
        for change in found
    )


def summary(found: list[Change], base: Base) -> str:
    """Return all in one line."""
    counts = Counter(change.what for change in found)
    words = [f"{counts[what]} {what}" for what in What if counts[what]]
    size = human(sum(change.size for change in found))
    on = f"base '{base.name}' (layers {base.chain.removeprefix('sha256:')[:12]})"
    return f"{', '.join(words) or 'nothing changed'}; {size} in files; {on}"


def _plain(path: str) -> str:
    shown = path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if shown.isprintable() and "\\" not in shown:
        return shown
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in shown)
