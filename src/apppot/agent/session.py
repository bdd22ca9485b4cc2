"""One machine's conversation: commands, their streams, signals and results over one channel."""

from __future__ import annotations

import os
from enum import StrEnum

from apppot.agent import frames
from apppot.agent.frames import Frame, Kind
from apppot.agent.loop import READ, WRITE, Loop, broken, would_block
from apppot.agent.results import CommandResult, failure_of, result_of
from apppot.agent.streams import Sink, Source
from apppot.errors import MachineError, ProtocolError
from apppot.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from apppot.agent.results import Failure
    from apppot.agent.spec import CommandSpec, GuestSpec

_STDOUT, _STDERR = 1, 2


class State(StrEnum):
    """A command's life."""

    STARTING = "starting"
    RUNNING = "running"
    ENDED = "ended"


class Command:
    """One command in the machine, and its streams on the host."""

    def __init__(self, session: Session, ident: int, stdio: tuple[int, int, int]) -> None:
        self.ident = ident
        self.state = State.STARTING
        self.started_at = 0.0  # seconds since the guest kernel's start
        self.result: CommandResult | None = None
        self.on_end: Callable[[Command], None] = lambda _: None
        self.on_flush: Callable[[], None] = lambda: None
        self.on_output_end: Callable[[int], None] = lambda _: None
        self.output_error: OSError | None = None
        self.sinks: dict[int, Sink] = {}
        self.source: Source | None = None
        self._session = session
        self._stdio = stdio

    def connect(self, streams: tuple[int, ...]) -> None:
        """Connect the host's descriptors; the command is not asked to start before this."""
        loop = self._session.loop
        for stream in streams:
            self.sinks[stream] = Sink(
                loop,
                self._stdio[stream],
                passed_on=lambda amount, stream=stream: self._credit(stream, amount),  # type: ignore[misc]
                gone=lambda error, stream=stream: self._reader_gone(stream, error),  # type: ignore[misc]
            )
            self.sinks[stream].on_flush = self._drained

    def begin(self, credit: int | None = frames.WINDOW) -> None:
        """Start relaying, once the guest has been asked to start the command.

        So much input may be sent; None: no more.
        """
        for sink in self.sinks.values():
            sink.fail()
        if credit is not None:
            self.source = Source(
                self._session.loop, self._stdio[0], arrived=self._input, credit=credit
            )

    def send_signal(self, number: int) -> None:
        """Send a signal to the command's process group."""
        if self.state is not State.ENDED:
            self._session.send(Kind.SIGNAL, self.ident, bytes((number,)))

    def resize(self, rows: int, columns: int) -> None:
        """Tell the command its terminal's new size."""
        if self.state is not State.ENDED:
            size = b"".join(n.to_bytes(2, "little") for n in (rows, columns, 0, 0))
            self._session.send(Kind.RESIZE, self.ident, size)

    @property
    def flushed(self) -> bool:
        """Whether all output has reached the host's descriptors."""
        return all(sink.idle for sink in self.sinks.values())

    def close(self) -> None:
        """Give the host's descriptors back."""
        for sink in self.sinks.values():
            sink.close()
        if self.source:
            self.source.close()

    def handle(self, frame: Frame) -> None:
        """Act on a frame for this command; raises ProtocolError."""
        payload = frame.payload
        match frame.kind:
            case Kind.STDOUT | Kind.STDERR:
                self.output(_STDOUT if frame.kind is Kind.STDOUT else _STDERR, payload)
            case Kind.GUEST_CREDIT:
                _, amount = frames.parse_credit(payload)
                if self.source:
                    self.source.grant(amount)
            case Kind.GUEST_CLOSE:
                if self.source:
                    self.source.close()
            case Kind.STARTED:
                self.state = State.RUNNING
                self.started_at = frames.number(frames.parse_records(payload), 1) / 1e9
            case Kind.EXITED:
                self._end(result_of(payload))
            case Kind.FAILED:
                found = failure_of(payload)
                self._end(CommandResult(failure=found.text, failure_errno=found.errno))
            case _:
                raise ProtocolError(f"the guest agent sent {frame.kind.name} for a command")

    def output(self, stream: int, data: bytes) -> None:
        """Take what the command has written; nothing is the end."""
        sink = self.sinks.get(stream)
        if sink and data:
            sink.feed(data)
        elif sink:
            sink.end(lambda: self.on_output_end(stream))

    def _end(self, result: CommandResult) -> None:
        self.state = State.ENDED
        self.result = result
        if self.source:
            self.source.close()
        self.on_end(self)

    def _drained(self) -> None:
        if self.state is State.ENDED and self.flushed:
            self.on_flush()

    def _input(self, data: bytes) -> None:
        if self.state is not State.ENDED:
            self._session.send(Kind.STDIN, self.ident, data)

    def _credit(self, stream: int, amount: int) -> None:
        if self.state is not State.ENDED:
            self._session.send_raw(frames.encode_credit(self.ident, stream, amount))

    def _reader_gone(self, stream: int, error: OSError) -> None:
        if not isinstance(error, BrokenPipeError):
            self.output_error = error
        if self.state is not State.ENDED:
            self._session.send(Kind.CLOSE, self.ident, bytes((stream,)))


class Session:
    """The conversation with one machine's agent.

    The callbacks are called from the loop: `on_hello` when the agent speaks, `on_ready` when the
    machine is as asked, `on_end` after BYE, FAILED or a broken channel, `on_notice` with texts for
    the curious.
    """

    def __init__(self, loop: Loop, channel: int) -> None:
        self.loop = loop
        self.commands: dict[int, Command] = {}
        self.hello: dict[int, bytes] = {}
        self.ready: dict[int, bytes] = {}
        self.bye: dict[int, bytes] | None = None
        self.failure: Failure | None = None
        self.on_hello: Callable[[], None] = lambda: None
        self.on_ready: Callable[[], None] = lambda: None
        self.on_end: Callable[[], None] = lambda: None
        self.on_notice: Callable[[str], None] = lambda _: None
        self.on_frozen: Callable[[], None] = lambda: None
        self.on_thawed: Callable[[dict[int, bytes]], None] = lambda _: None
        self.held: bytearray | None = None  # at a standstill, what waits to be said
        self._channel = channel
        self._decoder = frames.Decoder()
        self._outgoing = bytearray()
        self._open = True
        self._next = 1
        os.set_blocking(channel, False)
        loop.watch(channel, READ, self._ready)

    @property
    def lost(self) -> bool:
        """Whether the channel is gone."""
        return not self._open

    @property
    def kernel(self) -> str:
        """The guest kernel's release, '' before HELLO."""
        return self.hello.get(3, b"").decode("utf-8", "replace")

    @property
    def booted(self) -> float:
        """How long the guest's kernel took to start its agent, in seconds; 0 before HELLO."""
        return frames.number(self.hello, 4) / 1e9

    @property
    def memory(self) -> int:
        """The memory that the guest's programs can use, in bytes."""
        return frames.number(self.ready, 12)

    @property
    def unwritten(self) -> int:
        """The error number of writing out the shared folders; 0 if all is written."""
        return frames.number(self.bye or {}, 13)

    @staticmethod
    def seconds(records: dict[int, bytes]) -> float | None:
        """Return when a frame was sent, in seconds since the guest kernel's start."""
        return frames.number(records, 1) / 1e9 if 1 in records else None

    def finish(self) -> None:
        """Read what the machine said last, after its process has ended."""
        while self._open and self._receive():
            pass
        if self._open:
            self._hang_up()
            self.on_end()

    def configure(self, spec: GuestSpec) -> None:
        """Ask for the machine; only after `on_hello`."""
        for piece in frames.encode_specification(Kind.MACHINE, 0, spec.encode()):
            self.send_raw(piece)

    def start(self, spec: CommandSpec, stdio: tuple[int, int, int]) -> Command:
        """Ask for a command whose streams are relayed to and from the descriptors `stdio`."""
        pieces = list(frames.encode_specification(Kind.COMMAND, self._next, spec.encode()))
        command = Command(self, self._next, stdio)
        command.connect((_STDOUT,) if spec.terminal else (_STDOUT, _STDERR))
        self.commands[self._next] = command
        self._next += 1
        for piece in pieces:
            self.send_raw(piece)
        command.begin()
        return command

    @property
    def next_ident(self) -> int:
        """The next command's number; none is used twice."""
        return self._next

    def continued(self, next_ident: int) -> None:
        """Go on with another session's conversation."""
        self._decoder.opened()
        self._next = next_ident

    def power_off(self) -> None:
        """Ask the agent to end everything and say goodbye."""
        self.send(Kind.POWEROFF)

    def send(self, kind: Kind, ident: int = 0, payload: bytes = b"") -> None:
        """Send one frame."""
        self.send_raw(frames.encode(kind, ident, payload))

    def send_raw(self, data: bytes) -> None:
        """Send frames that are already encoded; dropped if the channel is gone."""
        if not self._open:
            return
        if self.held is not None:
            self.held += data
            return
        if not self._outgoing:
            data = data[self._write(data) :]
            if data and self._open:
                self.loop.watch(self._channel, READ | WRITE, self._ready)
        self._outgoing += data

    def close(self) -> None:
        """Hang up, and give every descriptor of every command back."""
        for command in self.commands.values():
            command.close()
        if self._open:
            self._hang_up()

    def _hang_up(self) -> None:
        self._open = False
        self.loop.unwatch(self._channel)
        os.close(self._channel)

    def _write(self, data: bytes) -> int:
        try:
            return os.write(self._channel, data)
        except OSError as error:
            if would_block(error):
                return 0
            return len(data)  # the reading side will notice the hang-up

    def _ready(self, events: int) -> None:
        if events & WRITE and self._outgoing:
            del self._outgoing[: self._write(bytes(self._outgoing[: frames.READ_SIZE]))]
            if not self._outgoing:
                self.loop.watch(self._channel, READ, self._ready)
        if events & READ or broken(events):
            self._receive()

    def _receive(self) -> bool:
        """Read once and act on it; return whether there was anything."""
        try:
            amount = os.readv(self._channel, [self._decoder.room])
        except OSError as error:
            if would_block(error):
                return False
            amount = 0
        if not amount:
            self._hang_up()
            self.on_end()
            return False
        for frame in self._decoder.filled(amount):
            if frame.ident:
                self._for_command(frame)
            else:
                self._for_machine(frame)
        return True

    def _for_command(self, frame: Frame) -> None:
        command = self.commands.get(frame.ident)
        if command is None:
            raise ProtocolError(f"the guest agent spoke of an unknown command {frame.ident}")
        if frame.kind is Kind.NOTICE:
            self.on_notice(frame.payload.decode("utf-8", "replace"))
        elif command.state is not State.ENDED:
            command.handle(frame)

    def _for_machine(self, frame: Frame) -> None:
        match frame.kind:
            case Kind.HELLO:
                self.hello = frames.parse_records(frame.payload)
                spoken = frames.number(self.hello, 1)
                if spoken != frames.VERSION:
                    raise MachineError(
                        f"the kit's agent speaks protocol {spoken}, not {frames.VERSION}",
                        hint="build the kit again with this version: apppot kit build",
                    )
                self.on_hello()
            case Kind.READY:
                self.ready = frames.parse_records(frame.payload)
                self.on_ready()
            case Kind.FAILED:
                self.failure = failure_of(frame.payload)
                self.on_end()
            case Kind.NOTICE:
                self.on_notice(frame.payload.decode("utf-8", "replace"))
            case Kind.BYE:
                self.bye = frames.parse_records(frame.payload)
                self.on_end()
            case Kind.FROZEN:
                self.on_frozen()
            case Kind.THAWED:
                self.on_thawed(frames.parse_records(frame.payload))
            case _:
                raise ProtocolError(f"the guest agent sent {frame.kind.name} for no command")
