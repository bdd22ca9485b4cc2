"""The build context: find the files that COPY and ADD name, and digest them."""

from __future__ import annotations

import hashlib
import os
import re
import stat
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from apppot.errors import UsageError
from apppot.image.build import ignore

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from apppot.image.build.model import Copy

IGNORE_FILES = (".containerignore", ".dockerignore")
PIECE = 1 << 20
WILD = "*?["
_MOST_LINKS = 40  # as the kernel


@dataclass(frozen=True)
class Item:
    """Something to copy: `name` is where it goes below the target (`.`: the target itself)."""

    name: str
    path: str  # on the host; '' with `data`
    mode: int
    size: int = 0
    mtime: int = 0  # nanoseconds
    link: str = ""
    inode: tuple[int, int] | None = None  # of a file with several names
    data: bytes | None = None
    archive: bool = False  # its contents are to be copied

    @property
    def is_folder(self) -> bool:
        """Tell whether it is a folder."""
        return stat.S_ISDIR(self.mode)


@dataclass(frozen=True)
class Selection:
    """What a COPY takes. `alone`: one file, whose name the target may be."""

    items: tuple[Item, ...]
    alone: bool = False


class Context:
    """A folder on the host whose files can be copied into images."""

    def __init__(self, root: str, rules: ignore.Rules, where: str = "") -> None:
        self.root = os.path.realpath(root)
        self._rules = rules
        self._where = where or "the ignore file"

    @classmethod
    def open(cls, root: str, containerfile: str) -> Context:
        """Return the context in folder `root` with its ignore file; raises UsageError."""
        if not os.path.isdir(root):
            raise UsageError(
                f"the build context {root} is not a folder", hint="apppot build -t NAME DIR"
            )
        candidates = [f"{containerfile}{name}" for name in IGNORE_FILES[::-1]]
        candidates += [os.path.join(root, name) for name in IGNORE_FILES]
        for path in candidates:
            try:
                with open(path, encoding="utf-8", errors="surrogateescape") as file:
                    text = file.read()
            except (FileNotFoundError, NotADirectoryError):
                continue
            except OSError as error:
                raise UsageError(f"cannot read {path}: {error.strerror}") from error
            return cls(root, ignore.parse(text, os.path.basename(path)), os.path.basename(path))
        return cls(root, ignore.Rules())

    def select(self, copy: Copy, wrong: Callable[[str, str], UsageError]) -> Selection:
        """Return the files that a COPY or ADD from the context takes; `wrong` makes its errors."""
        found: dict[str, Item] = {}
        alone = True
        count = 0
        for file in copy.files:
            data = file.content.encode("utf-8", "surrogateescape")
            found[file.name] = Item(file.name, "", stat.S_IFREG | 0o644, len(data), data=data)
            count += 1
        for source in copy.sources:
            for path in self._matches(source, wrong):
                count += 1
                items = list(self._below(source, path, copy, wrong))
                alone = alone and not items[0].is_folder and not items[0].archive
                for item in items:
                    found[f"{item.name}\0{count}" if item.archive else item.name] = item
        if not count:
            raise wrong(f"{' '.join(copy.sources)}: nothing in {self.root} matches", "")
        if count > 1:
            found.pop(".", None)  # none of several sources tells how the target is made
        alone = alone and count == 1
        if not (alone or copy.target.endswith("/")) and count > 1:
            raise wrong(
                f"{' '.join(copy.sources)}: several files need a folder as their target",
                f"end it with a slash: {copy.target}/",
            )
        return Selection(tuple(found.values()), alone)

    def _matches(self, source: str, wrong: Callable[[str, str], UsageError]) -> list[str]:
        """Return the paths in the context that a source means: relative, '' for the context."""
        clean = os.path.normpath("/" + source.lstrip("/")).lstrip("/")
        if not any(char in clean for char in WILD):
            if not self._there(clean):
                hint = f"paths are relative to the build context {self.root}"
                if self._is_link_out(clean):
                    hint = "it is a link that leads to nothing in the build context"
                raise wrong(f"'{source}' is not in the build context", hint)
            if clean and self._ignored(clean):
                raise wrong(f"'{source}' is left out by {self._where}", f"see {self._where}")
            return [clean]
        return [path for path in self._glob(clean.split("/")) if not self._ignored(path)]

    def _glob(self, parts: Sequence[str], base: str = "") -> Iterator[str]:
        """Yield the paths that match a pattern, part by part."""
        if not parts:
            yield base
            return
        first, *rest = parts
        if not any(char in first for char in WILD):
            path = os.path.join(base, first)
            if self._there(path):
                yield from self._glob(rest, path)
            return
        folder = resolve(self.root, base)
        if folder is None or not os.path.isdir(folder):
            return
        pattern = re.compile(ignore.expression(first.replace("**", "*")), re.DOTALL)
        for name in sorted(os.listdir(folder)):
            if pattern.fullmatch(name):
                yield from self._glob(rest, os.path.join(base, name))

    def _there(self, path: str) -> bool:
        found = resolve(self.root, path)
        return found is not None and os.path.lexists(found)

    def _is_link_out(self, path: str) -> bool:
        return os.path.lexists(os.path.join(self.root, path))

    def _ignored(self, path: str) -> bool:
        if not self._rules.ignores(path):
            return False
        # A folder that is left out counts if something in it is not.
        full = resolve(self.root, path)
        if not self._rules.exceptions or full is None or not os.path.isdir(full):
            return True
        return not any(True for _ in self._walk(full, path))

    def _below(
        self, source: str, path: str, copy: Copy, wrong: Callable[[str, str], UsageError]
    ) -> Iterator[Item]:
        """Yield what one match gives: itself, and first of all, so that its kind is known."""
        full = resolve(self.root, path)
        if full is None:
            raise wrong(f"'{source}' leads out of the build context", "")
        try:
            item = _item(os.path.basename(path), full)
            if item is None:
                raise wrong(f"'{source}' is neither a file nor a folder", "")
            if not item.is_folder:
                archive = copy.unpack and _is_archive(full)
                yield replace(item, archive=archive)
                return
            yield replace(item, name=".")  # for the target, if it has to be made
            for below, found in self._walk(full, path):
                yield replace(found, name=below)
        except OSError as error:
            raise wrong(f"cannot read {error.filename or source}: {error.strerror}", "") from error

    def _walk(self, folder: str, path: str, below: str = "") -> Iterator[tuple[str, Item]]:
        """Yield what is in a folder and is not left out, a folder before its contents."""
        for name in sorted(os.listdir(folder)):
            here = f"{path}/{name}" if path else name
            inner = f"{below}/{name}" if below else name
            item = _item(name, os.path.join(folder, name))
            if item is None:
                continue  # a socket
            ignored = self._rules.ignores(here)
            if not item.is_folder:
                if not ignored:
                    yield inner, item
            elif not ignored:
                yield inner, item
                yield from self._walk(item.path, here, inner)
            elif self._rules.exceptions:
                kept = list(self._walk(item.path, here, inner))
                if kept:
                    yield inner, item
                    yield from kept


def _item(name: str, path: str) -> Item | None:
    """Return a file of the host as something to copy; None for what cannot be."""
    found = os.lstat(path)
    mode = found.st_mode
    if stat.S_ISLNK(mode):
        return Item(name, path, mode, mtime=found.st_mtime_ns, link=os.readlink(path))
    if stat.S_ISREG(mode):
        inode = (found.st_dev, found.st_ino) if found.st_nlink > 1 else None
        return Item(name, path, mode, found.st_size, found.st_mtime_ns, inode=inode)
    return Item(name, path, mode, mtime=found.st_mtime_ns) if stat.S_ISDIR(mode) else None


def resolve(root: str, path: str) -> str | None:
    """Return where a path leads when `root` is taken for `/`; None if that is nothing."""
    here = root
    pending = [part for part in reversed(path.split("/")) if part]
    links = 0
    while pending:
        part = pending.pop()
        if part == ".":
            continue
        if part == "..":
            here = os.path.dirname(here) if here != root else root
            continue
        full = os.path.join(here, part)
        try:
            target = os.readlink(full)
        except FileNotFoundError:
            return None
        except OSError:  # no link
            here = full
            continue
        links += 1
        if links > _MOST_LINKS:
            return None
        if target.startswith("/"):
            here = root
        pending += [part for part in reversed(target.split("/")) if part]
    return here


def _is_archive(path: str) -> bool:
    """Tell whether ADD unpacks a file: a tar archive, plain or compressed."""
    import tarfile

    with open(path, "rb") as file:
        if file.read(4) == b"\x28\xb5\x2f\xfd":
            return True  # Zstandard: told of when it is read, if it cannot be
    try:
        with tarfile.open(path, mode="r:*") as archive:
            return archive.next() is not None
    except (tarfile.TarError, EOFError, OSError):
        return False


def digest(selection: Selection, copy: Copy) -> str:
    """Return what the files to copy are known by: everything but their times."""
    state = hashlib.sha256()
    links: dict[tuple[int, int], str] = {}
    for item in sorted(selection.items, key=lambda item: item.name):
        mode = item.mode if copy.mode is None or stat.S_ISLNK(item.mode) else copy.mode
        kind = "archive" if item.archive else f"{stat.S_IFMT(item.mode):o}"
        content = item.link
        if item.inode and not item.archive:
            content = links.get(item.inode, "")
            links.setdefault(item.inode, item.name)
        if stat.S_ISREG(item.mode) and not content:
            content = _content(item)
        for text in (item.name, kind, f"{mode & 0o7777:o}", content):
            state.update(text.encode("utf-8", "surrogateescape") + b"\0")
    return state.hexdigest()


def _content(item: Item) -> str:
    state = hashlib.sha256(item.data or b"")
    if item.data is None:
        with open(item.path, "rb") as file:
            while piece := file.read(PIECE):
                state.update(piece)
    return state.hexdigest()
