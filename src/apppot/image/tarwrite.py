"""Write tar archives in one form: POSIX pax, one header for one file, whoever asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apppot.image.tarread import BLOCK, CHARACTER, FOLDER, XATTR, Entry

if TYPE_CHECKING:
    from collections.abc import Iterable

END = bytes(2 * BLOCK)
_NAME = 100
_SMALL = 8**7 - 1  # what seven octal digits hold
_BIG = 8**11 - 1
_FIELDS = b"%07o\0%07o\0%07o\0%011o\0%011o\0        %c"
_MAGIC = b"ustar\x0000" + bytes(64)  # and no names of users and groups
_DEVICE = b"%07o\0%07o\0" + bytes(167)
_NO_DEVICE = _DEVICE % (0, 0)
_PAX_NAME = b"././@PaxHeader".ljust(_NAME, b"\0")
_NO_LINK = bytes(_NAME)


def headers(path: bytes, entry: Entry) -> bytes:
    """Return all headers of an entry; `path` has no leading './', a folder's no trailing '/'."""
    if entry.kind == FOLDER:
        path += b"/"
    records = [(XATTR + name, value) for name, value in entry.xattrs]
    name = _text(path, b"path", records)
    link = _text(entry.link, b"linkpath", records) if entry.link else _NO_LINK
    uid = _number(entry.uid, _SMALL, b"uid", records)
    gid = _number(entry.gid, _SMALL, b"gid", records)
    size = _number(entry.size, _BIG, b"size", records)
    mtime = entry.mtime if 0 <= entry.mtime <= _BIG else 0
    if entry.nanoseconds:
        records.append((b"mtime", b"%d.%09d" % (entry.mtime, entry.nanoseconds)))
    elif mtime != entry.mtime:
        records.append((b"mtime", b"%d" % entry.mtime))
    device = _NO_DEVICE if entry.device == (0, 0) else _DEVICE % entry.device
    block = _block(name, (entry.mode, uid, gid, size, mtime, entry.kind), link, device)
    return extended(records) + block if records else block


def extended(records: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Return a pax header with the records, sorted by key."""
    body = b"".join([_record(key, value) for key, value in sorted(records)])
    if not _is_utf8(body):
        body = _record(b"hdrcharset", b"BINARY") + body
    block = _block(_PAX_NAME, (0, 0, 0, len(body), 0, ord("x")), _NO_LINK, _NO_DEVICE)
    return block + body + padding(len(body))


def padding(size: int) -> bytes:
    """Return the zeros that follow `size` bytes of contents."""
    return bytes(-size % BLOCK)


def _text(value: bytes, key: bytes, records: list[tuple[bytes, bytes]]) -> bytes:
    """Return a name's field; what does not fit, or is more than ASCII, becomes a record."""
    if len(value) > _NAME or not value.isascii():
        records.append((key, value))
        value = value[:_NAME]
    return value.ljust(_NAME, b"\0")


def _number(value: int, most: int, key: bytes, records: list[tuple[bytes, bytes]]) -> int:
    if value <= most:
        return value
    records.append((key, b"%d" % value))
    return 0


def _block(
    name: bytes, fields: tuple[int, int, int, int, int, int], link: bytes, device: bytes
) -> bytes:
    block = b"".join((name, _FIELDS % fields, link, _MAGIC, device))
    return b"%s%06o\0 %s" % (block[:148], sum(block), block[156:])


def _record(key: bytes, value: bytes) -> bytes:
    """Return a pax record: its length, which counts its own digits, key and value."""
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    if len(str(length)) > len(str(rest)):
        length += 1
    return b"%d %s=%s\n" % (length, key, value)


def _is_utf8(data: bytes) -> bool:
    if data.isascii():
        return True
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def whiteout() -> Entry:
    """Return what stands for a deleted file in overlayfs: the device 0:0."""
    return Entry(CHARACTER)
