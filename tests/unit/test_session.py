"""A session against an agent made of a socket: streams, windows, results, misbehaviour."""

from __future__ import annotations

import os
import select
import socket
import struct
from typing import TYPE_CHECKING

import pytest

from apppot.agent import frames, standstill
from apppot.agent.frames import MAGIC, WINDOW, Kind
from apppot.agent.loop import READ, Loop
from apppot.agent.session import Command, Session
from apppot.agent.spec import CommandSpec
from apppot.errors import MachineError, ProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SPEC = CommandSpec(
    arguments=(b"cat",), environment=(b"A=1",), directory=b"/", uid=1, gid=1, groups=(1,)
)
HEADER = struct.Struct("<BBHI")


class Agent:
    """The guest's end of the channel."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        channel.settimeout(10)

    def say(self, kind: Kind, ident: int = 0, payload: bytes = b"") -> None:
        self.channel.sendall(frames.encode(kind, ident, payload))

    def hear(self) -> tuple[Kind, int, bytes]:
        kind, _, ident, length = HEADER.unpack(self._exactly(HEADER.size))
        return Kind(kind), ident, self._exactly(length)

    def _exactly(self, size: int) -> bytes:
        data = b""
        while len(data) < size:
            piece = self.channel.recv(size - len(data))
            assert piece
            data += piece
        return data


class Stage:
    """A session, its agent, and one command with pipes as its streams."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        self.loop = Loop()
        self.session = Session(self.loop, ours.detach())
        self.agent = Agent(theirs)
        self.descriptors: list[int] = []
        theirs.sendall(b"BIOS chatter" + MAGIC)
        self.agent.say(Kind.HELLO, 0, frames.record(1, 1))

    def command(self) -> tuple[Command, int, int]:
        """Start a command; return it, and the far ends of its input and output."""
        stdin, feed = os.pipe()
        take, stdout = os.pipe()
        self.descriptors += [stdin, feed, take, stdout]
        command = self.session.start(SPEC, (stdin, stdout, stdout))
        assert self.agent.hear()[:2] == (Kind.COMMAND, command.ident)
        return command, feed, take

    def turn(self, done: Callable[[], bool]) -> None:
        """Run the loop until `done`, at most for ten seconds."""
        late: list[bool] = []

        def look() -> None:
            if done() or late:
                self.loop.stop()
            else:
                self.loop.timer("look", 0.001, look)

        self.loop.timer("late", 10, lambda: late.append(True))
        look()
        self.loop.run() if not done() else None
        self.loop.cancel("late")
        self.loop.cancel("look")
        assert not late


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage()
    yield made
    made.session.close()
    made.agent.channel.close()
    for descriptor in made.descriptors:
        try:
            os.close(descriptor)
        except OSError:
            continue


def _exited(code: int) -> bytes:
    return frames.record(6, code)


def test_a_commands_whole_life(stage: Stage) -> None:
    command, feed, take = stage.command()
    stage.agent.say(Kind.STARTED, 1, frames.record(1, 5_000_000_000))
    os.write(feed, b"input")
    os.close(feed)
    stage.descriptors.remove(feed)
    stage.turn(lambda: command.started_at == 5.0)
    assert stage.agent.hear() == (Kind.STDIN, 1, b"input")
    stage.turn(lambda: command.source is not None and command.source.ended)
    assert stage.agent.hear() == (Kind.STDIN, 1, b"")
    stage.agent.say(Kind.STDOUT, 1, b"output")
    stage.agent.say(Kind.STDOUT, 1)
    stage.agent.say(Kind.STDERR, 1)
    stage.agent.say(Kind.EXITED, 1, _exited(3))
    stage.turn(lambda: command.result is not None)
    assert command.result is not None
    assert (command.result.code, command.result.signal) == (3, None)
    assert os.read(take, 100) == b"output"
    assert stage.agent.hear() == (Kind.CREDIT, 1, struct.pack("<BI", 1, 6))


def test_input_stops_at_the_window(stage: Stage) -> None:
    _, feed, _ = stage.command()
    os.set_blocking(feed, False)
    sent = 0

    def pump() -> bool:
        nonlocal sent
        try:
            sent += os.write(feed, b"x" * 65536)
        except BlockingIOError:
            return heard >= WINDOW
        return False

    heard = 0

    def count() -> bool:
        nonlocal heard
        full = pump()
        stage.agent.channel.setblocking(False)
        try:
            while True:
                heard += stage.agent.channel.recv(1 << 20).count(b"x")
        except BlockingIOError:
            return full

    stage.turn(count)
    assert heard == WINDOW
    stage.agent.say(Kind.GUEST_CREDIT, 1, struct.pack("<BI", 0, 1000))
    stage.turn(lambda: count() and heard == WINDOW + 1000)


def test_a_reader_that_is_gone_is_told_once(stage: Stage) -> None:
    command, _, take = stage.command()
    os.close(take)
    stage.descriptors.remove(take)
    stage.agent.say(Kind.STDOUT, 1, b"lost")
    stage.agent.say(Kind.STDOUT, 1, b"lost too")
    stage.agent.say(Kind.EXITED, 1, _exited(0))
    stage.turn(lambda: command.result is not None)
    assert stage.agent.hear() == (Kind.CLOSE, 1, b"\x01")
    assert command.output_error is None  # a broken pipe is no error of ours
    assert command.flushed


def test_the_end_of_output_is_passed_on_before_the_end(stage: Stage) -> None:
    command, _, _ = stage.command()
    ended: list[int] = []
    command.on_output_end = ended.append
    stage.agent.say(Kind.STDOUT, 1, b"x")
    stage.agent.say(Kind.STDOUT, 1)
    stage.turn(lambda: bool(ended))
    assert ended == [1]
    assert command.result is None


@pytest.mark.parametrize(
    ("kind", "ident", "payload"),
    [
        (Kind.EXITED, 1, b""),
        (Kind.EXITED, 1, frames.record(6, 256)),
        (Kind.EXITED, 1, frames.record(6, 0) + frames.record(7, 9)),
        (Kind.EXITED, 1, frames.record(7, 0)),
        (Kind.EXITED, 1, frames.record(7, 65)),
        (Kind.EXITED, 1, frames.record(6, b"short")),
        (Kind.EXITED, 2, frames.record(6, 0)),
        (Kind.STDOUT, 0, b"x"),
        (Kind.STARTED, 1, b"half"),
        (Kind.GUEST_CREDIT, 1, b"x"),
        (Kind.HELLO, 1, b""),
    ],
)
def test_an_agent_that_misbehaves(stage: Stage, kind: Kind, ident: int, payload: bytes) -> None:
    stage.command()
    stage.agent.say(kind, ident, payload)
    with pytest.raises(ProtocolError):
        stage.turn(lambda: False)


def test_another_protocol(stage: Stage) -> None:
    stage.agent.say(Kind.HELLO, 0, frames.record(1, 2))
    with pytest.raises(MachineError, match="protocol 2"):
        stage.turn(lambda: False)


def test_a_lost_channel(stage: Stage) -> None:
    ended: list[bool] = []
    stage.session.on_end = lambda: ended.append(True)
    stage.agent.channel.close()
    stage.turn(lambda: bool(ended))
    assert stage.session.lost
    stage.session.send(Kind.POWEROFF)  # no error


def test_the_loop_keeps_timers_in_order_and_forgets_cancelled_ones() -> None:
    loop, seen = Loop(), list[str]()
    loop.timer("b", 0.02, lambda: seen.append("b"))
    loop.timer("a", 0.01, lambda: seen.append("a"))
    loop.timer("c", 0.0, lambda: seen.append("c"))
    loop.cancel("c")
    loop.timer("end", 0.03, loop.stop)
    loop.run()
    assert seen == ["a", "b"]


def test_the_loop_ignores_what_was_unwatched_in_the_same_round() -> None:
    loop, seen = Loop(), list[int]()
    pipes = [os.pipe() for _ in range(2)]

    def ready(number: int) -> None:
        seen.append(number)
        for reader, _ in pipes:
            loop.unwatch(reader)
        loop.stop()

    for number, (reader, writer) in enumerate(pipes):
        os.write(writer, b"x")
        loop.watch(reader, READ, lambda _, number=number: ready(number))  # type: ignore[misc]
    loop.run()
    assert len(seen) == 1
    for pair in pipes:
        for descriptor in pair:
            os.close(descriptor)


def test_a_standstill_holds_back_and_another_session_goes_on(stage: Stage) -> None:
    command, feed, take = stage.command()
    stage.agent.say(Kind.STARTED, 1, frames.record(1, 5_000_000_000))
    stage.turn(lambda: command.started_at == 5.0)
    frozen: list[bool] = []
    standstill.freeze(stage.session, 7, lambda: frozen.append(True))
    assert stage.agent.hear() == (Kind.FREEZE, 0, struct.pack("<Q", 7))
    os.write(feed, b"input")
    command.send_signal(10)
    stage.agent.say(Kind.STDOUT, 1, b"x" * (WINDOW // 2))
    stage.turn(lambda: frames.encode_credit(1, 1, WINDOW // 2) in bytes(stage.session.held or b""))
    stage.agent.say(Kind.STDOUT, 1, b"x" * (WINDOW // 2))  # together, more than a pipe holds
    stage.turn(lambda: bool(command.sinks[1].waiting))
    stage.agent.say(Kind.STDERR, 1)
    stage.agent.say(Kind.FROZEN, 0, frames.record(14, 0))
    stage.turn(lambda: bool(frozen) and bool(stage.session.held))
    stage.turn(lambda: command.source is not None and command.source.credit < WINDOW)
    saved = standstill.conversation(stage.session, command)
    assert saved.relay.credit == WINDOW - 5
    assert (saved.next_ident, saved.relay.outputs[2].ended) == (2, True)
    passed_on = os.read(take, WINDOW)
    pending = saved.relay.outputs[1].pending
    assert len(passed_on) + len(pending) == WINDOW
    assert pending

    other = Stage.__new__(Stage)
    ours, theirs = socket.socketpair()
    other.loop, other.agent, other.descriptors = Loop(), Agent(theirs), []
    other.session = standstill.resume(other.loop, ours.detach(), saved)
    out, into = os.pipe()
    nothing = os.open(os.devnull, os.O_RDONLY)
    running: list[bool] = []
    again = standstill.adopt(other.session, saved.relay, (nothing, into, into))
    standstill.go_on(other.session, saved.relay, lambda: running.append(True))
    kind, _, payload = other.agent.hear()
    assert (kind, len(payload)) == (Kind.THAW, 72)
    heard = [other.agent.hear() for _ in range(3)]
    assert (Kind.SIGNAL, 1, bytes((10,))) in heard
    assert (Kind.STDIN, 1, b"input") in heard
    other.agent.say(Kind.THAWED, 0, frames.record(15, 0) + frames.record(16, 0))
    other.turn(lambda: bool(running))
    got = b""
    while len(got) < len(pending):
        other.turn(lambda: bool(select.select([out], [], [], 0)[0]))
        got += os.read(out, WINDOW)
    assert got == pending
    assert again.ident == 1
    other.agent.say(Kind.EXITED, 1, _exited(4))
    other.turn(lambda: again.result is not None)
    other.session.close()
    theirs.close()
    for descriptor in (out, into, nothing):
        os.close(descriptor)


def test_a_machine_that_cannot_be_thawed_wholly_is_an_error(stage: Stage) -> None:
    standstill.freeze(stage.session, 0, lambda: None)
    standstill.thaw(stage.session, lambda: None)
    stage.agent.say(Kind.THAWED, 0, frames.record(15, 0) + frames.record(16, 1))
    with pytest.raises(MachineError, match="random pool could not be reseeded"):
        stage.turn(lambda: False)
