"""An independent reader of uncompressed EROFS files, to check what mkfs.erofs has written."""

from __future__ import annotations

import stat
import struct
from dataclasses import dataclass, field

PREFIXES = {
    1: b"user.",
    2: b"system.posix_acl_access",
    3: b"system.posix_acl_default",
    4: b"trusted.",
    6: b"security.",
}


@dataclass
class Node:
    """A file as the file system has it."""

    nid: int
    mode: int
    uid: int
    gid: int
    mtime: int
    nanoseconds: int
    links: int
    data: bytes = b""
    device: tuple[int, int] = (0, 0)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)


class Reader:
    """Reads the whole file; raises AssertionError if it is not as expected."""

    def __init__(self, path: str) -> None:
        with open(path, "rb") as file:
            self.image = file.read()
        magic, _, _, bits, _, root = struct.unpack_from("<IIIBBH", self.image, 1024)
        assert magic == 0xE0F5E1E2
        self.block = 1 << bits
        build, _, _, meta, shared = struct.unpack_from("<QIIII", self.image, 1024 + 24)
        self.build_time, self.root = build, root
        self.meta, self.shared = meta * self.block, shared * self.block
        self.uuid = self.image[1024 + 48 : 1024 + 64]

    def tree(self) -> dict[bytes, Node]:
        """Return all files by path; the root is b'.'."""
        found: dict[bytes, Node] = {}
        pending = [(b".", self.root)]
        while pending:
            path, nid = pending.pop()
            node = self.node(nid)
            found[path] = node
            if stat.S_ISDIR(node.mode):
                for name, below in self.folder(node.data):
                    if name not in (b".", b".."):
                        pending.append((name if path == b"." else path + b"/" + name, below))
        return found

    def node(self, nid: int) -> Node:
        at = self.meta + nid * 32
        kind, xattrs, mode = struct.unpack_from("<HHH", self.image, at)
        if kind & 1:
            size, where, _, uid, gid, mtime, nano, links = struct.unpack_from(
                "<QIIIIQII", self.image, at + 8
            )
            end = at + 64
        else:
            links, size = struct.unpack_from("<HI", self.image, at + 6)
            where, _, uid, gid = struct.unpack_from("<IIHH", self.image, at + 16)
            mtime, nano, end = self.build_time, 0, at + 32
        node = Node(nid, mode, uid, gid, mtime, nano, links)
        if xattrs:
            length = 12 + 4 * (xattrs - 1)
            node.xattrs = self.attributes(end, length)
            end += length
        if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
            node.device = ((where >> 8) & 0xFFF, (where & 0xFF) | ((where >> 12) & 0xFFF00))
        elif size:
            node.data = self.contents((kind >> 1) & 7, size, where, end)
        return node

    def contents(self, layout: int, size: int, where: int, end: int) -> bytes:
        assert layout in (0, 2), "only uncompressed files are expected"
        start = where * self.block
        if layout == 0:
            return self.image[start : start + size]
        whole = (size - 1) // self.block * self.block
        head = self.image[start : start + whole] if whole else b""
        return head + self.image[end : end + size - whole]

    def attributes(self, at: int, length: int) -> dict[bytes, bytes]:
        count = self.image[at + 4]
        found: dict[bytes, bytes] = {}
        for index in range(count):
            (number,) = struct.unpack_from("<I", self.image, at + 12 + 4 * index)
            self.attribute(self.shared + 4 * number, found)
        place, end = at + 12 + 4 * count, at + length
        while place < end:
            place = self.attribute(place, found)
        return found

    def attribute(self, at: int, found: dict[bytes, bytes]) -> int:
        named: int
        size: int
        named, index, size = struct.unpack_from("<BBH", self.image, at)
        name = PREFIXES[index] + self.image[at + 4 : at + 4 + named]
        assert name not in found
        found[name] = self.image[at + 4 + named : at + 4 + named + size]
        return (at + 4 + named + size + 3) & ~3

    def folder(self, data: bytes) -> list[tuple[bytes, int]]:
        found = []
        for start in range(0, len(data), self.block):
            piece = data[start : start + self.block]
            count = struct.unpack_from("<H", piece, 8)[0] // 12
            entries = [struct.unpack_from("<QH", piece, 12 * i) for i in range(count)]
            ends = [offset for _, offset in entries[1:]] + [len(piece)]
            for (nid, offset), end in zip(entries, ends, strict=True):
                found.append((piece[offset:end].rstrip(b"\0"), nid))
        return found
