"""Raw disk images: find the root file system in a file, and give it as an image that can be run.

The file system itself is never read here: the guest's kernel mounts it. Only the partition table
and the first bytes of partitions are looked at.
"""

from __future__ import annotations

import fcntl
import os
import stat

from apppot.errors import ImageError, UsageError
from apppot.image import diskfs, parttable
from apppot.image.model import Image, ImageConfig, Layer
from apppot.lean import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import IO

    from apppot.image.diskfs import Content
    from apppot.image.parttable import Partition, Table


class DiskInUseError(ImageError):
    """Another machine has the disk."""


@dataclass(frozen=True)
class Root:
    """The root file system of a disk image; `partition` is 0 if the whole disk is one."""

    path: str
    partition: int
    offset: int
    size: int
    content: Content
    reason: str

    @property
    def identity(self) -> str:
        """A digest that stays while nobody writes to the file system, wherever the file lies."""
        from hashlib import sha256

        return f"sha256:{sha256(self.content.superblock).hexdigest()}"


def find_root(path: str, partition: int | None = None) -> Root:
    """Return the root file system of a disk image; raises UsageError or ImageError."""
    try:
        with open(path, "rb") as file:
            kind = os.fstat(file.fileno()).st_mode
            if not (stat.S_ISREG(kind) or stat.S_ISBLK(kind)):
                raise ImageError(f"{path} is no disk image: it is not a file")
            size = file.seek(0, os.SEEK_END)
            return _find_root(file, size, path, partition)
    except IsADirectoryError as error:
        raise ImageError(
            f"{path} is a folder, not a disk image",
            hint="make an image of it: apppot import FOLDER NAME",
        ) from error
    except OSError as error:
        raise ImageError(f"cannot read the disk image {path}: {error.strerror}") from error


def _find_root(file: IO[bytes], size: int, path: str, partition: int | None) -> Root:
    table = parttable.read_table(file, size, path)
    if table is None:
        return _whole(file, size, path, partition)
    contents = {
        each.number: diskfs.identify(file, each.offset, each.size) for each in table.partitions
    }
    if partition is not None:
        return _named(table, contents, path, partition)
    return _chosen(table, contents, path)


def _whole(file: IO[bytes], size: int, path: str, partition: int | None) -> Root:
    content = diskfs.identify(file, 0, size)
    if content is None:
        raise ImageError(
            f"{path} is no disk image: it has no partition table and no known file system",
            hint="is the file complete, raw and not compressed?",
        )
    if not content.type:
        raise ImageError(f"{path} cannot be run: it is {content.what}", hint=content.hint)
    if partition is not None:
        raise UsageError(
            f"--partition {partition}: {path} has no partitions, it is one {content.what} file"
            " system",
            hint="leave --partition out",
        )
    return _sound(Root(path, 0, 0, size, content, "the whole disk"))


def _named(table: Table, contents: dict[int, Content | None], path: str, number: int) -> Root:
    for each in table.partitions:
        if each.number == number:
            content = contents[number]
            if content is None or not content.type:
                raise ImageError(
                    f"{path}: partition {number} cannot be run: it is {_called(each, content)}",
                    hint=f"{_listing(table, contents)}",
                )
            return _root(path, each, content, "as asked for")
    raise UsageError(
        f"--partition {number}: {path} has no such partition", hint=_listing(table, contents)
    )


def _chosen(table: Table, contents: dict[int, Content | None], path: str) -> Root:
    candidates = [
        (each, content)
        for each in table.partitions
        if (content := contents[each.number]) is not None and content.type
    ]
    for each, content in candidates:
        if each.kind == parttable.GPT_ROOT_X86_64:
            return _root(path, each, content, "its type is 'root' for x86-64")
    fit = [pair for pair in candidates if pair[1].last_mounted != "/boot"] or candidates
    if fit:
        reason = "the only one with a file system" if len(fit) == 1 else "the first of several"
        return _root(path, *fit[0], reason)
    raise ImageError(
        f"{path} has no partition with a root file system that can be mounted",
        hint=_listing(table, contents),
    )


def _root(path: str, each: Partition, content: Content, reason: str) -> Root:
    return _sound(Root(path, each.number, each.offset, each.size, content, reason))


def _sound(root: Root) -> Root:
    """Refuse a file system that was cut off: the kernel's own words are less clear."""
    if root.content.size > root.size:
        raise ImageError(
            f"{root.path}: the {root.content.what} file system has {root.content.size} bytes,"
            f" but there is room for {root.size}",
            hint="the image may have been cut off when it was copied",
        )
    return root


def _called(each: Partition, content: Content | None) -> str:
    return content.what if content else f"of type {each.kind}, with nothing known in it"


def _listing(table: Table, contents: dict[int, Content | None]) -> str:
    parts = [
        f"{each.number} is {_called(each, contents[each.number])}" for each in table.partitions
    ]
    return f"{table.form} partitions: " + ("; ".join(parts) or "none")


def describe(root: Root) -> Iterator[str]:
    """Yield what `--verbose` says about a disk."""
    where = f"partition {root.partition}" if root.partition else "no partition table"
    yield f"{root.path}: {where} ({root.reason}), {root.content.what}"
    if root.content.dirty:
        yield (
            f"{root.path} was not unmounted cleanly: what is in its journal is not seen"
            " (a run with --write replays it)"
        )


def resolve(path: str, partition: int | None, tell: Callable[[str], None] | None = None) -> Image:
    """Return a disk as an image of one layer; raises UsageError or ImageError."""
    root = find_root(path, partition)
    if tell:
        for line in describe(root):
            tell(line)
    layer = Layer(
        root.identity,
        root.size,
        os.path.abspath(path),
        offset=root.offset,
        type=root.content.type,
    )
    return Image(path, root.identity, (layer,), ImageConfig())


def lock(path: str, *, write: bool) -> int:
    """Return the descriptor that holds a disk's lock: one writer, or any number of readers.

    Raises ImageError if another run is in the way. A file system without locks stops only writers.
    """
    try:
        descriptor = os.open(path, (os.O_RDWR if write else os.O_RDONLY) | os.O_CLOEXEC)
    except OSError as error:
        raise ImageError(
            f"cannot open the disk image {path}{' for writing' * write}: {error.strerror}",
            hint="without --write it is only read" if write else "check its permissions",
        ) from error
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_EX if write else fcntl.LOCK_SH) | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise DiskInUseError(
            f"{path} is in use by another machine"
            + (", so that it cannot be written" if write else ", which writes to it"),
            hint="wait until that has ended; 'apppot ps' lists the machines",
        ) from error
    except OSError as error:
        if write:
            os.close(descriptor)
            raise ImageError(
                f"{path} cannot be locked, so that it cannot be written safely: {error.strerror}",
                hint="copy it to a file system with locks",
            ) from error
    return descriptor
