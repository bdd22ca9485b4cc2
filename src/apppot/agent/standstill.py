"""A session that stands still while its machine is saved, and one that goes on with a saved one.

Between FREEZE and THAW nothing is under way on the channel. What the host would say meanwhile is
held back; it is part of what is saved, with what has come of the guest and was not yet passed on.
"""

from __future__ import annotations

import os
import time

from apppot.agent import frames
from apppot.agent.frames import Kind
from apppot.agent.session import Command, Session, State
from apppot.errors import MachineError
from apppot.lean import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from collections.abc import Callable

    from apppot.agent.loop import Loop

CAN_FREEZE = 1  # bit of HELLO's record 5
_ENTROPY = 64


@dataclass(frozen=True)
class Output:
    """One stream of a command: what has come and has not been passed on; whether more may come."""

    pending: bytes
    ended: bool


@dataclass(frozen=True)
class Relay:
    """A command under way as the host knows it: what is not in the machine's memory.

    `credit` is how much input may still be sent, None if no more is to be.
    """

    ident: int
    started_at: float
    credit: int | None
    outputs: dict[int, Output]


@dataclass(frozen=True)
class Conversation:
    """A session at a standstill: all that another one needs to go on with it."""

    hello: dict[int, bytes]
    ready: dict[int, bytes]
    next_ident: int
    relay: Relay
    held: bytes


def can_freeze(session: Session) -> bool:
    """Tell whether the kit's agent understands FREEZE."""
    return bool(frames.number(session.hello, 5) & CAN_FREEZE)


def freeze(session: Session, resident: int, then: Callable[[], None]) -> None:
    """Bring the channel to a standstill, and call `then`; `resident` is the machine's memory."""
    session.on_frozen = then
    session.send(Kind.FREEZE, 0, resident.to_bytes(8, "little"))
    session.held = bytearray()


def thaw(session: Session, then: Callable[[], None]) -> None:
    """Let the agent go on, with the host's time and fresh randomness; call `then` when it does.

    If it could not do all of that, MachineError is raised in the loop.
    """
    session.on_thawed = lambda records: _thawed(records, then)
    held, session.held = session.held, None
    session.send(Kind.THAW, 0, time.time_ns().to_bytes(8, "little") + os.urandom(_ENTROPY))
    session.send_raw(bytes(held or b""))


def _thawed(records: dict[int, bytes], then: Callable[[], None]) -> None:
    for tag, what in ((15, "clock could not be set"), (16, "random pool could not be reseeded")):
        error = frames.number(records, tag)
        if error:
            raise MachineError(f"the machine's {what}: {os.strerror(error)}")
    then()


def conversation(session: Session, command: Command) -> Conversation:
    """Return what is to be saved of a session at a standstill."""
    source = command.source
    relay = Relay(
        ident=command.ident,
        started_at=command.started_at,
        credit=None if source is None or source.ended else source.credit,
        outputs={
            stream: Output(sink.waiting, not sink.open) for stream, sink in command.sinks.items()
        },
    )
    held = bytes(session.held or b"")
    return Conversation(session.hello, session.ready, session.next_ident, relay, held)


def resume(loop: Loop, channel: int, saved: Conversation) -> Session:
    """Return the session with a machine that has been restored and stands still."""
    session = Session(loop, channel)
    session.hello, session.ready = saved.hello, saved.ready
    session.held = bytearray(saved.held)
    session.continued(saved.next_ident)
    return session


def adopt(session: Session, saved: Relay, stdio: tuple[int, int, int]) -> Command:
    """Return a command of such a machine, whose streams are to be the descriptors `stdio`."""
    command = Command(session, saved.ident, stdio)
    command.state = State.RUNNING
    command.started_at = saved.started_at
    session.commands[saved.ident] = command
    return command


def go_on(session: Session, saved: Relay, then: Callable[[], None]) -> None:
    """Connect an adopted command's streams, pass on what was left of its output, and thaw."""
    command = session.commands[saved.ident]
    command.connect(tuple(saved.outputs))
    for stream, output in saved.outputs.items():
        if output.pending:
            command.output(stream, output.pending)
        if output.ended:
            command.output(stream, b"")
    command.begin(credit=saved.credit)
    thaw(session, then)
