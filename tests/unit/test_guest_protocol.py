"""What the guest agent does with a host that breaks the protocol: says so, and ends."""

from __future__ import annotations

import contextlib
import os
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.guest_client import WINDOW, Agent, Pair, Type, frame, records, specification
from tests.unit.test_guest_agent import agent, program

__all__ = ["agent", "program"]  # fixtures

LAYER: Pair = (2, b"/dev/none")
SLEEP = specification(Type.COMMAND, 1, records([(1, b"/bin/sleep"), (1, b"100")]))


def u64(number: int) -> bytes:
    return struct.pack("<Q", number)


@pytest.mark.parametrize(
    "data",
    [
        frame(1),
        frame(200),
        frame(Type.POWEROFF, 0, b"", 2),
        frame(Type.POWEROFF, 1),
        frame(Type.POWEROFF, 0, b"x"),
        frame(Type.STDIN, 0, b"x"),
        frame(Type.STDIN, 7, b"x"),
        struct.pack("<BBHI", Type.STDIN, 0, 1, 65537),
        frame(Type.MACHINE, 0, records([LAYER]), 1),
        SLEEP + SLEEP,
        SLEEP + frame(Type.STDIN, 1, b"x", 1),
        SLEEP + frame(Type.SIGNAL, 1, b"\0"),
        SLEEP + frame(Type.SIGNAL, 1, b"\x41"),
        SLEEP + frame(Type.SIGNAL, 1, b"\x0f\0"),
        SLEEP + frame(Type.RESIZE, 1, b"1234567"),
        SLEEP + frame(Type.CLOSE, 1, b"\0"),
        SLEEP + frame(Type.CREDIT, 1, struct.pack("<BI", 1, 1)),
        SLEEP + frame(Type.CREDIT, 1, struct.pack("<BI", 0, 0)),
        SLEEP + frame(Type.STDIN, 1) * 2,
        SLEEP + frame(Type.STDIN, 1) + frame(Type.STDIN, 1, b"x"),
        frame(Type.COMMAND, 1, records([(1, b"a")])) + SLEEP[8:],
        frame(Type.COMMAND, 1) + frame(Type.COMMAND, 2),
        frame(Type.COMMAND, 1) + frame(Type.MACHINE, 0),
    ],
)
def test_broken_frames(agent: Agent, data: bytes) -> None:
    agent.send(data)
    failed = agent.failure()
    assert failed.records[2] == b"protocol"
    assert failed.records[4]


@pytest.mark.parametrize(
    "pairs",
    [
        [],
        [(2, b"A=1")],
        [(1, b"a\0b")],
        [(1, b"a"), (2, b"A=\0")],
        [(1, b"a"), (3, b"/"), (3, b"/")],
        [(1, b"a"), (4, b"1")],
        [(1, b"a"), (4, 2**32 - 1)],
        [(1, b"a"), (6, 2**32)],
        [(1, b"a"), (7, 2)],
        [(1, b"a"), (8, 65536)],
        [(1, b"a"), (10, 0o1000)],
        [(1, b"a"), (99, b"")],
        [(1, b"a"), (0, b"")],
    ],
)
def test_broken_command_specifications(agent: Agent, pairs: list[Pair]) -> None:
    agent.send(specification(Type.COMMAND, 1, records(pairs)))
    assert agent.failure().records[2] == b"protocol"


@pytest.mark.parametrize(
    "pairs",
    [
        [],
        [(1, b"host")],
        [LAYER, (1, b"two\nlines")],
        [LAYER, (12, b"1.1.1.1\nsearch evil")],
        [(16, 4096), LAYER],
        [LAYER, (17, b"ext4"), (17, b"xfs")],
        [LAYER, LAYER, (18, 1)],
        [LAYER, (14, b"1.1.1.1 a\n2.2.2.2 b")],
        [LAYER, (6, b"source without a type")],
        [LAYER, (5, b"hostfs"), (7, b"/job")],
        [LAYER, (5, b"hostfs"), (6, b"s"), (7, b"job")],
        [LAYER, (5, b"hostfs"), (6, b"s"), (7, b"/job"), (9, 4)],
        [LAYER, (5, b"hostfs"), (6, b"s"), (6, b"s"), (7, b"/job")],
        [LAYER, (27, b"part")],
        *([LAYER, (5, b"9p"), (6, b"s"), (7, b"/x"), (27, part)] for part in (b"", b"..", b"a/b")),
        [LAYER, (5, b"9p"), (6, b"s"), (7, b"/x"), (27, b"a"), (27, b"a")],
        [LAYER, (20, 1000)],
        [LAYER, (20, 1000), (22, b"a:0"), (23, b"/h")],
        [LAYER, (20, 1000), (22, b"a"), (23, b"h")],
        [LAYER, (20, 1000), (22, b"a"), (23, b"/h:/bin/sh")],
        [LAYER, (20, 1000), (22, b"a" * 300), (23, b"/h")],
        [LAYER, (20, 2**32 - 1), (22, b"a"), (23, b"/h")],
        [LAYER, (25, 3)],
        [LAYER, (99, b"")],
        [LAYER] * 300,
        [LAYER, *[(5, b"hostfs"), (6, b"s"), (7, b"/job")] * 65],
    ],
)
def test_broken_machine_specifications(program: str, pairs: list[Pair]) -> None:
    with contextlib.closing(Agent(program, ready=False)) as agent:
        agent.send(specification(Type.MACHINE, 0, records(pairs)))
        assert agent.failure().records[2] == b"protocol"


def test_full_machine_specification_is_accepted(program: str) -> None:
    share: list[Pair] = [
        (5, b"hostfs"),
        (6, b"s"),
        (7, b"/job"),
        (8, b"3"),
        (9, 1),
        (27, b"a part"),
    ]
    pairs: list[Pair] = [
        (1, b"pot"), *[LAYER] * 256, (3, b"/dev/x"), (4, 0), *share * 64, (10, b"10.0.2.15/24"),
        (11, b"10.0.2.2"), (12, b"10.0.2.3"), (13, b"example"), (14, b"1.1.1.1 one"), (15, 9000),
        (20, 1000), (21, 1000), (22, b"me"), (23, b"/home/me"), (24, b"/bin/zsh"), (25, 1),
        (30, 1),
    ]  # fmt: skip
    for piece in (1, 65536):
        with contextlib.closing(Agent(program, ready=False)) as agent:
            agent.send(specification(Type.MACHINE, 0, records(pairs), piece))
            ready = agent.receive()
            assert ready.type is Type.READY
            assert (ready.number(12) or 0) > 1 << 20


def test_command_before_the_machine(program: str) -> None:
    with contextlib.closing(Agent(program, ready=False)) as agent:
        agent.send(SLEEP)
        assert agent.failure().records[2] == b"protocol"


def test_specification_that_is_too_long(agent: Agent) -> None:
    piece = frame(Type.COMMAND, 1, b"x" * 65536)
    with contextlib.suppress(OSError):  # it hangs up before it has all
        agent.send(piece * 129)
    assert agent.failure().records[4] == b"specification too long"


def test_more_input_than_the_window(agent: Agent) -> None:
    agent.send(SLEEP)
    data = b"".join(frame(Type.STDIN, 1, b"x" * 65536) for _ in range(40))
    with contextlib.suppress(OSError):
        agent.send(data)
    assert b"window" in agent.failure().records[4]


def test_input_within_the_window_waits_for_the_command(agent: Agent) -> None:
    ident = agent.command(b"sh", b"-c", b"sleep 0.3; wc -c")
    agent.input(ident, b"x" * WINDOW)
    assert agent.until(ident, Type.EXITED).stdout.strip() == b"%d" % WINDOW


def test_frames_that_crossed_the_end_are_dropped(agent: Agent) -> None:
    for name in (b"true", b"no-such-program"):
        ident = agent.command(name)
        agent.until(ident, Type.EXITED)
        agent.input(ident, b"late")
        agent.signal(ident, 15)
        agent.shut(ident, 1)
        agent.credit(ident, 2, 1 << 31)
        agent.send(frame(Type.RESIZE, ident, bytes(8)))
    assert agent.shell("echo alive").stdout == b"alive\n"


@settings(deadline=None, max_examples=60)
@given(data=st.binary(min_size=8, max_size=400))
def test_garbage_never_crashes_it(program: str, data: bytes) -> None:
    with contextlib.closing(Agent(program)) as running:
        with contextlib.suppress(OSError):
            running.send(data)
            running.socket.shutdown(1)
            while True:
                try:
                    assert running.receive().type in {Type.FAILED, Type.BYE}
                except EOFError:
                    break
        running.process.wait(20)
        assert running.process.returncode == 0


@settings(deadline=None, max_examples=60)
@given(
    tags=st.lists(
        st.tuples(st.integers(0, 40), st.one_of(st.binary(max_size=9), st.integers(0, 9)))
    )
)
def test_random_records_never_crash_it(program: str, tags: list[Pair]) -> None:
    with contextlib.closing(Agent(program, ready=False)) as running:
        running.send(specification(Type.MACHINE, 0, records(tags)))
        assert running.receive().type in {Type.READY, Type.FAILED}


def test_it_refuses_to_be_started_by_hand(program: str) -> None:
    assert os.spawnv(os.P_WAIT, program, [program]) == 2
