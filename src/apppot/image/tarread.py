"""Read tar archives of every form, within bounded memory, whatever their headers claim.

Python's tarfile takes as much memory as a header asks for, and some ten times the time. Here an
archive is a sequence of entries that say where in the file their contents are.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING

from apppot.errors import ImageError

if TYPE_CHECKING:
    from array import array
    from collections.abc import Iterator

BLOCK = 512
FILE, HARD_LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, FOLDER, FIFO = b"0123456"
_OLD_FILE, _CONTIGUOUS, _GNU_SPARSE = b"\x007S"
_LONG_NAME, _LONG_LINK = b"LK"
_PAX, _PAX_SOLARIS, _PAX_GLOBAL = b"xXg"
_EXTENSIONS = frozenset((_LONG_NAME, _LONG_LINK, _PAX, _PAX_SOLARIS, _PAX_GLOBAL))
_KINDS = {kind: kind for kind in (FILE, HARD_LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, FOLDER, FIFO)}
_KINDS |= dict.fromkeys((_OLD_FILE, _CONTIGUOUS, _GNU_SPARSE), FILE)
XATTR = b"SCHILY.xattr."
LIBARCHIVE_XATTR = b"LIBARCHIVE.xattr."
SPARSE = b"GNU.sparse."
BIGGEST_HEADER = 4 << 20  # of one entry's extensions; Linux has at most 64 KiB of each attribute
BIGGEST_ATTRIBUTE = 64 << 10
_LAST_ID = (1 << 32) - 2
LAST_SIZE = (1 << 63) - 1
_NANOSECONDS = 9
_ZEROS = bytes(BLOCK)


@dataclass(slots=True)
class Entry:
    """A file of an archive. `data` is where its contents begin; `pieces` is for sparse files.

    `pieces` has pairs of an offset and a size; what is between them is zeros. `shared` means that
    the file has several names.
    """

    kind: int
    mode: int = 0
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    nanoseconds: int = 0
    size: int = 0
    data: int = 0
    link: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    pieces: array[int] | None = None
    shared: bool = False


class Source:
    """A file that is read at places; `size` is all of it."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.size = file.seek(0, os.SEEK_END)
        try:
            self.descriptor = file.fileno()
        except OSError:
            self.descriptor = -1

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes, or fewer at the end."""
        if self.descriptor >= 0:
            return os.pread(self.descriptor, size, offset)
        self.file.seek(offset)
        return self.file.read(size)


class Part(Source):
    """One of several archives in a file: its places count from its own beginning."""

    def __init__(self, file: IO[bytes], begin: int, end: int) -> None:
        super().__init__(file)
        self.begin, self.size = begin, end - begin

    def read(self, offset: int, size: int) -> bytes:
        """Return `size` bytes, or fewer at the end."""
        return os.pread(self.descriptor, min(size, self.size - offset), self.begin + offset)


@dataclass(slots=True)
class _Extended:
    """What the headers before an entry's own say."""

    values: dict[bytes, bytes] = field(default_factory=dict)
    sparse: list[bytes] = field(default_factory=list)  # offsets and sizes of GNU's form 0.0
    name: bytes = b""
    link: bytes = b""
    size: int = 0


def entries(source: Source) -> Iterator[tuple[bytes, Entry]]:
    """Give names, as they are written, and entries, in the archive's order; raises ImageError."""
    offset = 0
    common: dict[bytes, bytes] = {}
    extended = _Extended()
    while True:
        block = source.read(offset, BLOCK)
        if len(block) < BLOCK:
            if block or extended.size or not offset:
                raise damaged("it ends within a header" if offset else "it is empty")
            return
        if block == _ZEROS:
            return
        check_sum(block, offset)
        size = number(block[124:136])
        if block[156] in _EXTENSIONS:
            _extend(source, offset, block[156], size, extended, common)
            offset += BLOCK + padded(size)
            continue
        values = {**common, **extended.values} if common else extended.values
        name, entry, stored = _entry(source, offset + BLOCK, block, extended, values)
        yield name, entry
        offset += BLOCK + padded(stored)
        if offset - padded(stored) + stored > source.size:
            raise damaged(f"it ends within the contents of '{shown(name)}'")
        if values or extended.size:
            extended = _Extended()


def damaged(what: str) -> ImageError:
    """Return the error for an archive that makes no sense."""
    return ImageError(f"the tar archive is damaged: {what}")


def shown(name: bytes) -> str:
    """Return a name for an error message."""
    text = name.replace(b"\0", b"/").decode("utf-8", "backslashreplace")
    return text if len(text) <= 200 else text[:200] + "..."  # noqa: PLR2004


def check_sum(block: bytes, offset: int) -> None:
    """Check a header against its own sum; raises ImageError."""
    total = sum(block) - sum(block[148:156]) + 8 * 32
    given = number(block[148:156])
    if given == total:
        return
    high = sum(1 for byte in block[:148] + block[156:] if byte > 127)  # noqa: PLR2004
    if given != total - 256 * high:  # some old programs added signed bytes
        raise damaged(f"at byte {offset} there is no header")


def padded(size: int) -> int:
    """Return how much room contents of a size take."""
    return (size + BLOCK - 1) // BLOCK * BLOCK


def number(text: bytes) -> int:
    """Return an octal number, or one in GNU's binary form."""
    first = text[0]
    if first in {0x80, 0xFF}:
        value = int.from_bytes(text[1:], "big")
        return value if first == 0x80 else value - (1 << 8 * (len(text) - 1))  # noqa: PLR2004
    digits = text.partition(b"\0")[0].strip()
    try:
        return int(digits, 8) if digits else 0
    except ValueError:
        raise damaged(f"{digits!r} is no octal number") from None


def _extend(
    source: Source,
    offset: int,
    kind: int,
    size: int,
    extended: _Extended,
    common: dict[bytes, bytes],
) -> None:
    """Read a header that belongs to the next entry, or to all that follow."""
    extended.size += size + BLOCK
    if size < 0 or extended.size > BIGGEST_HEADER:
        raise damaged(f"the header at byte {offset} has {extended.size} bytes")
    data = source.read(offset + BLOCK, size)
    if len(data) < size:
        raise damaged("it ends within a header")
    if kind == _LONG_NAME:
        extended.name = data.partition(b"\0")[0]
    elif kind == _LONG_LINK:
        extended.link = data.partition(b"\0")[0]
    elif kind == _PAX_GLOBAL:
        found = _Extended()
        _records(data, offset, found)
        common.update(found.values)
        if sum(len(key) + len(value) for key, value in common.items()) > BIGGEST_HEADER:
            raise damaged("its global headers are too big")
    else:
        _records(data, offset, extended)


def _records(data: bytes, offset: int, extended: _Extended) -> None:
    """Read the records `LENGTH KEY=VALUE` of a pax header."""
    position = 0
    while position < len(data) and data[position]:
        space = data.find(b" ", position, position + 10)
        digits = data[position:space] if space > 0 else b""
        end = position + int(digits) if digits.isdigit() else 0
        if not space < end <= len(data) or data[end - 1 : end] != b"\n":
            raise damaged(f"the pax header at byte {offset} makes no sense")
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not equals or not key:
            raise damaged(f"the pax header at byte {offset} has a record without a value")
        if key in {b"GNU.sparse.offset", b"GNU.sparse.numbytes"}:
            extended.sparse.append(value)
        extended.values[key] = value
        position = end


def _entry(
    source: Source,
    data: int,
    block: bytes,
    extended: _Extended,
    values: dict[bytes, bytes],
) -> tuple[bytes, Entry, int]:
    """Return an entry's name, the entry, and how many bytes follow its header."""
    name = values.get(b"path") or extended.name or _name(block)
    stored = decimal(values[b"size"]) if b"size" in values else number(block[124:136])
    if stored < 0:
        raise damaged(f"'{shown(name)}' has {stored} bytes")
    kind = _KINDS.get(block[156])
    if kind is None:
        raise ImageError(
            f"'{shown(name)}' in the archive is of the unknown type {chr(block[156])!r}"
        )
    if block[156] == _OLD_FILE and block[:100].partition(b"\0")[0].endswith(b"/"):
        kind = FOLDER
    entry = Entry(
        kind,
        number(block[100:108]) & 0o7777,
        number(block[108:116]),
        number(block[116:124]),
        number(block[136:148]),
    )
    if kind == FILE:
        entry.size, entry.data = stored, data
        if block[156] == _GNU_SPARSE:
            from apppot.image import tarsparse

            stored += tarsparse.old_form(source, entry, block)
    else:
        stored = 0  # whatever the size says: nothing follows the header
        if kind in {CHARACTER, BLOCK_DEVICE}:
            entry.device = number(block[329:337]), number(block[337:345])
        elif kind in {SYMLINK, HARD_LINK}:
            link = block[157:257].partition(b"\0")[0]
            entry.link = values.get(b"linkpath") or extended.link or link
    if values:
        name = _pax(source, entry, name, extended, values)
    _check(name, entry)
    return name, entry, stored


def _check(name: bytes, entry: Entry) -> None:
    """Check that Linux can have an entry's owner and time; raises ImageError."""
    if not (0 <= entry.uid <= _LAST_ID and 0 <= entry.gid <= _LAST_ID):
        raise ImageError(
            f"'{shown(name)}' in the archive belongs to {entry.uid}:{entry.gid}, out of range"
        )
    if abs(entry.mtime) > LAST_SIZE:
        raise ImageError(f"'{shown(name)}' in the archive has a time that is out of range")


def _name(block: bytes) -> bytes:
    """Return the name in a header of any form."""
    name = block[:100].partition(b"\0")[0]
    if block[257:263] != b"ustar\0":  # GNU's has other things in the prefix's place
        return name
    end = 476 if block[508:512] == b"tar\0" else 500
    prefix = block[345:end].partition(b"\0")[0]
    return prefix + b"/" + name if prefix else name


def decimal(text: bytes) -> int:
    """Return the number that a pax record has; raises ImageError."""
    if not text.isdigit() or len(text) > 19:  # noqa: PLR2004
        raise damaged(f"{text[:40]!r} is no number of bytes")
    return int(text)


def _pax(
    source: Source,
    entry: Entry,
    name: bytes,
    extended: _Extended,
    values: dict[bytes, bytes],
) -> bytes:
    """Add what the pax headers say to an entry; return its name."""
    if b"uid" in values:
        entry.uid = decimal(values[b"uid"])
    if b"gid" in values:
        entry.gid = decimal(values[b"gid"])
    if b"mtime" in values:
        entry.mtime, entry.nanoseconds = _time(values[b"mtime"])
    if entry.kind == FILE and (extended.sparse or any(k.startswith(SPARSE) for k in values)):
        name = values.get(b"GNU.sparse.name") or name
        from apppot.image import tarsparse

        tarsparse.pax_form(source, entry, extended.sparse, values)
    entry.xattrs = _xattrs(name, values)
    return name


def _time(text: bytes) -> tuple[int, int]:
    """Return whole seconds and nanoseconds."""
    whole, _, fraction = text.partition(b".")
    if whole.isdigit() and len(whole) < 20 and (not fraction or fraction.isdigit()):  # noqa: PLR2004
        return int(whole), int(fraction[:_NANOSECONDS].ljust(_NANOSECONDS, b"0"))
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not abs(value) < LAST_SIZE:  # also for what is no number
        raise damaged(f"{text[:40]!r} is no time")
    return math.floor(value), 0


def _xattrs(name: bytes, values: dict[bytes, bytes]) -> tuple[tuple[bytes, bytes], ...]:
    """Return the extended attributes, sorted by name."""
    found: dict[bytes, bytes] = {}
    for key, value in values.items():
        if key.startswith(LIBARCHIVE_XATTR):
            attribute, content = _libarchive(key, value)
            found.setdefault(attribute, content)
        elif key.startswith(XATTR):
            found[key[len(XATTR) :]] = value
    for attribute, value in found.items():
        if attribute != attribute.decode("utf-8", "replace").encode() or b"\0" in attribute:
            raise ImageError(f"'{shown(name)}' in the archive has an attribute {attribute!r}")
        if len(value) > BIGGEST_ATTRIBUTE:
            raise ImageError(f"'{shown(name)}' in the archive has an attribute of {len(value)} B")
    return tuple(sorted(found.items()))


def _libarchive(key: bytes, value: bytes) -> tuple[bytes, bytes]:
    """Return name and value of an attribute in libarchive's form: URL-quoted, base64."""
    import base64
    import binascii
    from urllib.parse import unquote_to_bytes

    try:
        content = base64.b64decode(value + b"=" * (-len(value) % 4))
    except (binascii.Error, ValueError) as error:
        raise ImageError(f"the archive's attribute '{shown(key)}' is damaged") from error
    return unquote_to_bytes(key[len(LIBARCHIVE_XATTR) :]), content
