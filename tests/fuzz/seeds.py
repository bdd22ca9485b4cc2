"""Writes the seeds of the agent's fuzzers: valid input of every kind."""

from __future__ import annotations

import itertools
import os
import struct
import sys
import tarfile

Value = int | bytes

MACHINE: list[tuple[int, Value]] = [
    (1, b"pot"), (2, b"/dev/ubda"), (16, 4096), (2, b"/dev/ubdb"), (17, b"ext4"),
    (19, 1 << 30), (3, b"/dev/ubdc"), (4, 1 << 30),
    (5, b"hostfs"), (6, b"share0"), (7, b"/job"), (8, b"9"), (9, 1), (27, b"part"),
    (10, b"10.0.2.15/24"), (10, b"fd00::2/64"), (11, b"10.0.2.2"), (12, b"10.0.2.3"),
    (13, b"example.org"), (14, b"10.0.2.2 host.apppot"), (15, 1500),
    (20, 1000), (21, 1000), (22, b"me"), (23, b"/home/me"), (24, b"/bin/zsh"), (25, 1),
    (30, 1_700_000_000_000_000_000),
]  # fmt: skip
COMMAND: list[tuple[int, Value]] = [
    (1, b"sh"), (1, b"-c"), (1, b""), (2, b"PATH=/bin"), (2, b"\xff\n"), (3, b"/job"),
    (4, 1000), (5, 1000), (6, 1000), (6, 4), (7, 1), (8, 24), (9, 80), (10, 0o22), (11, b"me:me"),
    (12, b"archive"),
]  # fmt: skip
FRAMES = [
    (64, 1, 0, b"records"), (65, 0, 1, b"first piece"), (65, 1, 1, b"second"), (66, 0, 1, b"input"),
    (66, 0, 1, b""), (67, 0, 1, b"\x0f"), (68, 0, 1, bytes(8)), (69, 0, 1, b"\1\0\0\1\0"),
    (70, 0, 1, b"\2"), (71, 0, 0, b""), (72, 0, 0, bytes(8)), (73, 0, 0, bytes(72)),
]  # fmt: skip
ACCOUNTS = [
    b"\4root" + b"root:x:0:0:root:/root:/bin/bash\ndaemon:x:1:1::/usr/sbin:/bin/sh\n",
    b"\0021\0" + b"a:x:1:b,c\nb:x:4294967295:",
]


PAX = {"path": "p/" + "x" * 120, "mtime": "1.5", "uid": "4000000", "SCHILY.xattr.user.a": "v\n"}


ORDERS: list[tuple[int, Value]] = [
    (1, b"machine"), (2, b"runner"), (3, b"login"), (4, 1), (5, 1), (6, b"#!/bin/sh\n"),
]  # fmt: skip


def answer() -> bytes:
    """Return a DHCP server's answer as an IP packet, to a client without a number."""
    options = b"\x35\1\5\1\4\xff\xff\xff\0\3\4\x0a\0\2\2\6\4\x0a\0\2\3\x1a\2\5\xdc\x0f\1x\xff"
    message = b"\2\1\6\0" + bytes(12) + b"\x0a\0\2\x0f" + bytes(216) + b"\x63\x82\x53\x63" + options
    length = 28 + len(message)
    udp = struct.pack(">HHHH", 67, 68, length - 20, 0)
    return struct.pack(">BBHIBBH8x", 0x45, 0, length, 0, 64, 17, 0) + udp + message


def disk_inputs() -> list[bytes]:
    """Return what a machine without a host reads: orders, an answer, a table, and labels."""
    fat = b"\xeb\x3c\x90".ljust(43, b"\0") + b"CIDATA     FAT16   "
    iso = b"\1CD001\1\0".ljust(40, b"\0") + b"config-2".ljust(32)
    table = bytes(512) + b"EFI PART" + struct.pack("<III", 0x10000, 92, 0)
    page = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nbody"
    return [
        *specifications(ORDERS),
        answer(),
        page,
        fat.ljust(510, b"\0") + b"\x55\xaa",
        iso,
        table,
    ]


def member() -> bytes:
    """Return the header of a tar entry, and behind it its pax records."""
    info = tarfile.TarInfo("name")
    info.type, info.linkname, info.mode = tarfile.SYMTYPE, "target", 0o644
    lines = [f" {key}={value}\n".encode() for key, value in PAX.items()]
    records = b"".join(str(len(line) + len(str(len(line) + 2))).encode() + line for line in lines)
    return info.tobuf(tarfile.USTAR_FORMAT)[:512] + records


def record(tag: int, value: Value) -> bytes:
    raw = value.to_bytes(8, "little") if isinstance(value, int) else value
    return struct.pack("<HHI", tag, 0, len(raw)) + raw


def specifications(pairs: list[tuple[int, Value]]) -> list[bytes]:
    """Return the whole, and each record after the one that makes it valid alone."""
    whole = [record(*pair) for pair in pairs]
    return [b"".join(whole), *(b"".join(p) for p in itertools.pairwise(whole)), *whole]


def seeds() -> dict[str, list[bytes]]:
    """Return the seeds by the fuzzer's name."""
    frames = [struct.pack("<BBHI", t, f, i, len(p)) + p for t, f, i, p in FRAMES]
    return {
        "agent_frames": [*frames, b"".join(frames)],
        "agent_machine": specifications(MACHINE),
        "agent_command": specifications(COMMAND),
        "agent_accounts": ACCOUNTS,
        "agent_tar": [member()],
        "agent_disk": disk_inputs(),
    }


def write(folder: str) -> None:
    """Write a folder of seeds for each fuzzer."""
    for name, inputs in seeds().items():
        os.makedirs(os.path.join(folder, name), exist_ok=True)
        for number, data in enumerate(inputs):
            with open(os.path.join(folder, name, f"seed{number:03}"), "wb") as file:
                file.write(data)


if __name__ == "__main__":
    write(sys.argv[1])
