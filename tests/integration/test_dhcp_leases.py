"""An exported disk keeps its address: it asks again in time, and takes another one if it must."""

from __future__ import annotations

import os
import socket
import struct
import threading
from typing import TYPE_CHECKING

import pytest

from apppot import kit
from tests.integration import test_disk_boots
from tests.integration.test_disk_boots import apppot, boot, lacking, result

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_LACKING = lacking(kit.PC_KERNEL, kit.KEEPER, kit.BIOS_LOADER)
pytestmark = [
    pytest.mark.skipif(bool(_LACKING), reason=_LACKING),
    pytest.mark.timeout(600),
]
store = test_disk_boots.store  # a fixture
LEASE = 8  # seconds
ROUTER, FIRST, SECOND = bytes([10, 9, 9, 1]), bytes([10, 9, 9, 15]), bytes([10, 9, 9, 16])
DISCOVER, OFFER, REQUEST, ACK, NAK = 1, 2, 3, 5, 6
PAYLOAD = b"""#!/bin/sh
n=0
while [ $n -lt 90 ]; do
    ip -4 addr show eth0 | grep -q 10.9.9.16 && break
    n=$((n + 1)); sleep 1
done
ip -4 addr show eth0 | grep inet
ip route
"""


class Server:
    """A DHCP server on the other end of a cable that is a pair of datagram sockets.

    It lets the first address be kept twice, and then gives another one.
    """

    def __init__(self) -> None:
        self.own, self.machine = _port(), _port()
        other = self.machine.getsockname()[1]
        self.machine.close()
        self.cable = (
            f"dgram,id=net,local.type=inet,local.host=127.0.0.1,local.port={other},"
            "remote.type=inet,remote.host=127.0.0.1,"
            f"remote.port={self.own.getsockname()[1]}"
        )
        self.asked: list[tuple[int, bytes]] = []  # kinds of messages, and who sent them
        self.thread = threading.Thread(target=self.serve)
        self.thread.start()

    def close(self) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
            end.sendto(b"", self.own.getsockname())
        self.thread.join()
        self.own.close()

    def serve(self) -> None:
        while True:
            frame, sender = self.own.recvfrom(65536)
            if not frame:
                return
            udp = frame[34:]
            if frame[12:14] != b"\x08\x00" or frame[23] != 17 or udp[2:4] != b"\0\x43":
                continue
            if answer := self.answer(udp[8:]):
                head = struct.pack("!HHHH", 67, 68, 8 + len(answer), 0)
                packet = _ip(head + answer)
                self.own.sendto(b"\xff" * 6 + b"\2" * 6 + b"\x08\0" + packet, sender)

    def answer(self, message: bytes) -> bytes:
        kind, has = _options(message)[53][0], message[12:16]
        self.asked.append((kind, has))
        kept = self.asked.count((REQUEST, FIRST))
        address = SECOND if kept > 2 else FIRST
        if kind == DISCOVER:
            return _message(message, OFFER, address)
        if has == FIRST and address == SECOND:
            return _message(message, NAK, bytes(4))
        return _message(message, ACK, address if has == bytes(4) else has)


def _port() -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.bind(("127.0.0.1", 0))
    return made


def _options(message: bytes) -> dict[int, bytes]:
    found, at = {}, 240
    while message[at] != 255:
        length = message[at + 1]
        found[message[at]] = message[at + 2 : at + 2 + length]
        at += 2 + length
    return found


def _message(question: bytes, kind: int, address: bytes) -> bytes:
    head = b"\2" + question[1:12] + question[12:16] + address + ROUTER + question[24:240]
    options = b"\x35\1%c\x36\4%s\x33\4%s\1\4\xff\xff\xff\0\3\4%s\xff" % (
        *(kind, ROUTER, struct.pack("!I", LEASE), ROUTER),
    )
    return head + options


def _ip(payload: bytes) -> bytes:
    head = struct.pack(
        *("!BBHHHBBH4s4s", 0x45, 0, 20 + len(payload), 0, 0, 64, 17, 0, ROUTER, b"\xff" * 4)
    )
    total = sum(struct.unpack("!10H", head))
    total = (total & 0xFFFF) + (total >> 16)
    return head[:10] + struct.pack("!H", ~total & 0xFFFF) + head[12:] + payload


@pytest.fixture
def server() -> Iterator[Server]:
    made = Server()
    yield made
    made.close()


def test_a_lease_is_kept_until_it_is_taken_back(
    server: Server, store: Path, tmp_path: Path
) -> None:
    (tmp_path / "payload").write_bytes(PAYLOAD)
    disk = tmp_path / "disk.raw"
    words = ("export", "small:1", "--format", "raw", "--output", str(disk))
    apppot(*words, "--payload", str(tmp_path / "payload"), store=store)
    text = boot(
        *(disk, "-device", "virtio-blk-pci,drive=disk", "-netdev", server.cable),
        *("-device", "virtio-net-pci,netdev=net"),
    )
    os.unlink(disk)
    assert result(text)["status"] == 0
    first = [(DISCOVER, bytes(4)), (REQUEST, bytes(4))]
    kept = [(REQUEST, FIRST)] * 3  # the third is refused
    asked = server.asked[: len(first + kept + first)]
    assert asked == [*first, *kept, *first]
    assert "the network's address is 10.9.9.16 now" in text
    assert "inet 10.9.9.16/24" in text
    assert "10.9.9.15" not in text
    assert "default via 10.9.9.1 dev eth0" in text
