"""The guest agent stands still between FREEZE and THAW: nothing is lost, doubled or said."""

from __future__ import annotations

import struct

import pytest

from tests.unit.guest_client import PATH, Agent, Frame, Type, frame
from tests.unit.test_guest_agent import agent, program

__all__ = ["agent", "program"]  # fixtures

FREEZE = frame(Type.FREEZE, 0, bytes(8))
THAW = frame(Type.THAW, 0, struct.pack("<Q", 1_800_000_000_000_000_000) + bytes(64))


def freeze(agent: Agent) -> list[Frame]:
    """Freeze the agent; return what it said before, which must all be there."""
    agent.send(FREEZE)
    said = [agent.receive()]
    while said[-1].type is not Type.FROZEN:
        said.append(agent.receive())
    return said


def output(frames: list[Frame]) -> bytes:
    return b"".join(f.payload for f in frames if f.type is Type.STDOUT)


def test_hello_says_that_it_can(agent: Agent) -> None:
    assert agent.hello.number(5) == 1


def test_nothing_is_said_while_it_is_frozen(agent: Agent) -> None:
    # It waits for its input, so that it does not end before the last THAW.
    script = b"i=0; while [ $i -lt 3000 ]; do echo $i; i=$((i+1)); done; read x; exit 3"
    ident = agent.command(b"sh", b"-c", script)
    said = [agent.receive()]
    for _ in range(3):
        said += freeze(agent)
        assert agent.quiet()
        agent.send(THAW)
        said.append(agent.receive())
        assert said[-1].type is Type.THAWED
        assert (said[-1].number(15), said[-1].number(16)) == (0, 0)
    agent.input(ident, b"go\n")
    ended = agent.until(ident, Type.EXITED)
    assert ended.code == 3
    assert output(said) + ended.stdout == b"".join(b"%d\n" % n for n in range(3000))


def test_a_command_that_ends_is_reported_afterwards(agent: Agent) -> None:
    ident = agent.command(b"sh", b"-c", b"read x; echo $x; exit 5")
    assert agent.receive().type is Type.STARTED
    agent.input(ident, b"last\n")
    freeze(agent)
    assert agent.quiet()
    agent.send(THAW)
    assert agent.receive().type is Type.THAWED
    # What was before FREEZE has been done: the input has arrived, and the command has ended.
    assert agent.until(ident, Type.EXITED).code == 5


def test_input_goes_on_where_it_was(agent: Agent) -> None:
    ident = agent.command(b"cat", env=PATH)
    assert agent.receive().type is Type.STARTED
    agent.input(ident, b"one ", end=False)
    said = freeze(agent)
    agent.send(THAW)
    assert agent.receive().type is Type.THAWED
    agent.input(ident, b"two")
    assert output(said) + agent.until(ident, Type.EXITED).stdout == b"one two"


def test_it_powers_off_while_it_is_frozen(agent: Agent) -> None:
    agent.command(b"sleep", b"100")
    freeze(agent)
    agent.send(frame(Type.POWEROFF))
    assert agent.receive().type is Type.BYE


@pytest.mark.parametrize(
    "data",
    [
        THAW,
        FREEZE + FREEZE,
        FREEZE + frame(Type.SIGNAL, 1, b"\x0f"),
        FREEZE + frame(Type.COMMAND, 1),
        frame(Type.FREEZE, 0, b""),
        frame(Type.FREEZE, 1, bytes(8)),
        frame(Type.THAW, 0, bytes(8)),
    ],
)
def test_what_makes_no_sense_ends_the_machine(agent: Agent, data: bytes) -> None:
    agent.send(data)
    failed = agent.failure()
    assert failed.records[2] == b"protocol"
