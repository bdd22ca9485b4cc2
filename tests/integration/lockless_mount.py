"""A FUSE file system whose flock fails with ENOLCK: a folder of the host, mounted elsewhere.

    lockless_mount.py FOLDER MOUNTPOINT

It knows what a store needs of a file system and no more; it ends when it is unmounted.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HEADER = struct.Struct("=IIQQIIIHH")  # length, opcode, unique, node, uid, gid, pid, extensions
ATTRIBUTES = struct.Struct("=QQQQQQIIIIIIIIII")
FLOCK_LOCKS, BIG_WRITES = 1 << 10, 1 << 5
MOST = 1 << 17
ROOT = 1
NO_ANSWER, DESTROY = (2, 36, 42), 38  # forget, interrupt, forget many
VALID_MODE, VALID_SIZE, VALID_MTIME, VALID_HANDLE, VALID_NOW = 1, 8, 32, 64, 256


class Server:
    """Answer the kernel's requests, one after the other."""

    def __init__(self, folder: str) -> None:
        self.paths = {ROOT: folder}
        self.nodes = {folder: ROOT}
        self.last = ROOT
        self.handles: dict[int, list[int]] = {}
        self.removed: set[int] = set()
        self.calls: dict[int, Callable[[int, bytes], bytes]] = {
            1: self.lookup, 3: self.getattr, 4: self.setattr, 9: self.mkdir, 10: self.unlink,
            11: self.rmdir, 12: self.rename, 13: self.link, 14: self.open, 15: self.read,
            16: self.write, 17: self.statfs, 18: self.release, 20: self.fsync, 25: self.nothing,
            26: self.init, 27: self.opendir, 28: self.readdir, 29: self.nothing, 30: self.nothing,
            31: self.no_lock, 32: self.no_lock, 33: self.no_lock, 34: self.nothing,
            35: self.create, 45: self.rename2,
        }  # fmt: skip

    def serve(self, device: int) -> None:
        while True:
            try:
                data = os.read(device, MOST + 4096)
            except OSError as error:
                if error.errno == errno.ENODEV:  # unmounted
                    return
                if error.errno in (errno.ENOENT, errno.EINTR):
                    continue
                raise
            _, opcode, unique, node, *_ = HEADER.unpack_from(data)
            if opcode in NO_ANSWER:
                continue
            if opcode == DESTROY:
                return
            code, answer = self.answer(opcode, node, data[HEADER.size :])
            try:
                os.write(device, struct.pack("=IiQ", 16 + len(answer), code, unique) + answer)
            except OSError as error:
                if error.errno != errno.ENOENT:  # the one who asked was killed
                    raise

    def answer(self, opcode: int, node: int, data: bytes) -> tuple[int, bytes]:
        """Return an error's number and what the kernel is told."""
        call = self.calls.get(opcode)
        if call is None:
            return -errno.ENOSYS, b""
        try:
            return 0, call(node, data)
        except OSError as error:
            return -(error.errno or errno.EIO), b""

    def init(self, _: int, data: bytes) -> bytes:
        major, _minor, ahead, flags = struct.unpack_from("=IIII", data)
        wanted = flags & (FLOCK_LOCKS | BIG_WRITES)
        limits = (8, 6, MOST, 1, 0, 0)  # of requests in the background, writes, clock ticks, pages
        return struct.pack("=IIIIHHIIHH", major, 31, ahead, wanted, *limits) + bytes(32)

    def nothing(self, *_: object) -> bytes:
        return b""

    def no_lock(self, *_: object) -> bytes:
        raise OSError(errno.ENOLCK, "there are no locks here")

    def child(self, node: int, name: bytes) -> str:
        return os.path.join(self.paths[node], os.fsdecode(name.split(b"\0", 1)[0]))

    def attributes(self, path: str | int) -> bytes:
        s = os.lstat(path) if isinstance(path, str) else os.fstat(path)
        times = [s.st_atime_ns, s.st_mtime_ns, s.st_ctime_ns]
        return ATTRIBUTES.pack(
            s.st_ino, s.st_size, s.st_blocks, *(t // 10**9 for t in times),
            *(t % 10**9 for t in times), s.st_mode, s.st_nlink, s.st_uid, s.st_gid, 0, 4096, 0,
        )  # fmt: skip

    def entry(self, path: str) -> bytes:
        attributes = self.attributes(path)
        if path not in self.nodes:
            self.last += 1
            self.nodes[path] = self.last
            self.paths[self.last] = path
        return struct.pack("=QQQQII", self.nodes[path], 0, 0, 0, 0, 0) + attributes

    def gone(self, path: str) -> None:
        node = self.nodes.pop(path, None)
        if node:
            self.removed.add(node)  # whoever has it open goes on by its handle

    def place(self, node: int) -> str | int:
        """Return a node's path, or a handle of one that has no path any more."""
        handles = self.handles.get(node, []) if node in self.removed else []
        return handles[0] if handles else self.paths[node]

    def lookup(self, node: int, data: bytes) -> bytes:
        return self.entry(self.child(node, data))

    def getattr(self, node: int, data: bytes) -> bytes:
        flags, _, handle = struct.unpack_from("=IIQ", data)
        what = handle if flags & 1 else self.place(node)
        return struct.pack("=QII", 0, 0, 0) + self.attributes(what)

    def setattr(self, node: int, data: bytes) -> bytes:
        valid, _, handle, size = struct.unpack_from("=IIQQ", data)
        seconds, parts = struct.unpack_from("=Q12xI", data, 40)
        (mode,) = struct.unpack_from("=I", data, 68)
        what = handle if valid & VALID_HANDLE else self.place(node)
        if valid & VALID_SIZE:
            os.truncate(what, size)
        if valid & VALID_MODE:
            os.chmod(what, stat.S_IMODE(mode))
        if valid & VALID_NOW:
            os.utime(what)
        elif valid & VALID_MTIME:
            os.utime(what, ns=(seconds * 10**9 + parts,) * 2)
        return struct.pack("=QII", 0, 0, 0) + self.attributes(what)

    def mkdir(self, node: int, data: bytes) -> bytes:
        mode, umask = struct.unpack_from("=II", data)
        path = self.child(node, data[8:])
        os.mkdir(path, mode & ~umask)
        return self.entry(path)

    def unlink(self, node: int, data: bytes) -> bytes:
        os.unlink(self.child(node, data))
        self.gone(self.child(node, data))
        return b""

    def rmdir(self, node: int, data: bytes) -> bytes:
        os.rmdir(self.child(node, data))
        self.gone(self.child(node, data))
        return b""

    def rename(self, node: int, data: bytes) -> bytes:
        (target,) = struct.unpack_from("=Q", data)
        return self.move(node, target, data[8:])

    def rename2(self, node: int, data: bytes) -> bytes:
        target, flags = struct.unpack_from("=QI", data)
        if flags:
            raise OSError(errno.EINVAL, "not known")
        return self.move(node, target, data[16:])

    def move(self, node: int, target: int, names: bytes) -> bytes:
        old, new = names.split(b"\0")[:2]
        source, path = self.child(node, old), self.child(target, new)
        os.rename(source, path)
        self.gone(path)
        moved = self.nodes.pop(source, None)
        if moved:
            self.nodes[path] = moved
            self.paths[moved] = path
        return b""

    def link(self, node: int, data: bytes) -> bytes:
        (old,) = struct.unpack_from("=Q", data)
        path = self.child(node, data[8:])
        os.link(self.paths[old], path)
        return self.entry(path)

    def open(self, node: int, data: bytes) -> bytes:
        (flags,) = struct.unpack_from("=I", data)
        kept = os.O_ACCMODE | os.O_TRUNC | os.O_APPEND
        place = self.place(node)
        path = place if isinstance(place, str) else f"/proc/self/fd/{place}"
        handle = os.open(path, (flags & kept) | os.O_CLOEXEC)
        self.handles.setdefault(node, []).append(handle)
        return struct.pack("=QII", handle, 0, 0)

    def create(self, node: int, data: bytes) -> bytes:
        flags, mode, umask, _ = struct.unpack_from("=IIII", data)
        path = self.child(node, data[16:])
        handle = os.open(path, flags | os.O_CREAT | os.O_CLOEXEC, mode & ~umask)
        entry = self.entry(path)
        self.handles.setdefault(self.nodes[path], []).append(handle)
        return entry + struct.pack("=QII", handle, 0, 0)

    def read(self, _: int, data: bytes) -> bytes:
        handle, offset, size = struct.unpack_from("=QQI", data)
        return os.pread(handle, size, offset)

    def write(self, _: int, data: bytes) -> bytes:
        handle, offset, size = struct.unpack_from("=QQI", data)
        return struct.pack("=II", os.pwrite(handle, data[40 : 40 + size], offset), 0)

    def release(self, node: int, data: bytes) -> bytes:
        (handle,) = struct.unpack_from("=Q", data)
        os.close(handle)
        self.handles[node].remove(handle)
        return b""

    def fsync(self, _: int, data: bytes) -> bytes:
        os.fsync(struct.unpack_from("=Q", data)[0])
        return b""

    def statfs(self, *_: object) -> bytes:
        s = os.statvfs(self.paths[ROOT])
        return struct.pack(
            "=QQQQQIII28x", s.f_blocks, s.f_bfree, s.f_bavail, s.f_files, s.f_ffree,
            s.f_bsize, s.f_namemax, s.f_frsize,
        )  # fmt: skip

    def opendir(self, *_: object) -> bytes:
        return struct.pack("=QII", 0, 0, 0)

    def readdir(self, node: int, data: bytes) -> bytes:
        _, offset, size = struct.unpack_from("=QQI", data)
        answer = b""
        names = [".", "..", *sorted(os.listdir(self.paths[node]))]
        for number, name in enumerate(names[offset:], offset + 1):
            raw = os.fsencode(name)
            kind = struct.pack("=QQII", number, number, len(raw), 0)
            record = (kind + raw).ljust((len(raw) + 31) // 8 * 8, b"\0")
            if len(answer) + len(record) > size:
                break
            answer += record
        return answer


@contextmanager
def mounted(place: str) -> Iterator[str]:
    """Mount a file system that has no locks, and return where."""
    if os.getuid() != 0 or not os.access("/dev/fuse", os.R_OK | os.W_OK):
        import pytest

        pytest.skip("only root with /dev/fuse can mount a file system without locks")
    below, mount = os.path.join(place, "below"), os.path.join(place, "mount")
    os.mkdir(below)
    os.mkdir(mount)
    words = [sys.executable, __file__, below, mount]
    with subprocess.Popen(words) as server:
        try:
            deadline = time.monotonic() + 20
            while not os.path.ismount(mount):
                assert server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.02)
            yield mount
        finally:
            subprocess.run(["umount", "--lazy", mount], check=False)
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()


def main(folder: str, mountpoint: str) -> None:
    """Mount and serve until it is unmounted."""
    os.umask(0)
    device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    options = f"fd={device},rootmode=40000,user_id={os.getuid()},group_id={os.getgid()}"
    libc = ctypes.CDLL(None, use_errno=True)
    words = [text.encode() for text in ("lockless", mountpoint, "fuse.lockless")]
    if libc.mount(*words, ctypes.c_ulong(0), options.encode()):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    Server(folder).serve(device)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
