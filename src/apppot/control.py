"""A running machine's control socket: `apppot exec` and `stop` speak to the launcher through it.

Requests and replies are lines of JSON. A request to execute carries the caller's own standard
streams as descriptors, so that they are relayed by the launcher's loop like the payload's.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket

from apppot.agent.loop import READ
from apppot.agent.spec import CommandSpec, Terminal
from apppot.errors import AppPotError, MachineError
from apppot.lean import TYPE_CHECKING
from apppot.machine.rundir import control_address

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from apppot.agent.session import Command, Session
    from apppot.checkpoint.saving import Saved
    from apppot.drive import Driver

_HANGUP = 1
_LONGEST = 16 << 20  # bytes of one request


def accepted(listener: int) -> socket.socket | None:
    """Return a new connection at a listening socket's descriptor, None if there is none."""
    with socket.socket(fileno=os.dup(listener)) as waiting:
        try:
            return waiting.accept()[0]
        except BlockingIOError:
            return None


class Served:
    """The launcher's end of a connection: at most one command."""

    def __init__(
        self,
        connection: socket.socket,
        session: Session,
        run: Driver,
        gone: Callable[[Served], None],
    ) -> None:
        self._connection = connection
        self._session = session
        self._run = run
        self._gone = gone
        self._buffer = bytearray()
        self._descriptors: list[int] = []
        self._command: Command | None = None
        connection.setblocking(False)
        session.loop.watch(connection.fileno(), READ, lambda _: self._readable())

    def close(self) -> None:
        """Hang up; a command that still runs is told so by a HUP."""
        if self._connection.fileno() < 0:
            return
        self._session.loop.unwatch(self._connection.fileno())
        self._connection.close()
        if self._command:
            self._command.send_signal(_HANGUP)
            self._command.close()
        for descriptor in self._descriptors:
            os.close(descriptor)
        self._descriptors.clear()
        self._gone(self)

    def _readable(self) -> None:
        try:
            data, descriptors, _, _ = socket.recv_fds(self._connection, 65536, 3)
        except BlockingIOError:
            return
        except OSError:
            data, descriptors = b"", []
        self._descriptors.extend(descriptors)
        self._buffer += data
        if not data or len(self._buffer) > _LONGEST:
            self.close()
            return
        while b"\n" in self._buffer and self._connection.fileno() >= 0:
            line, _, rest = bytes(self._buffer).partition(b"\n")
            self._buffer = bytearray(rest)
            self._request(line)

    def _request(self, line: bytes) -> None:
        try:
            request = json.loads(line)
            self._do(request)
        except AppPotError as error:
            self._reply({"error": error.message, "hint": error.hint})
        except (ValueError, KeyError, TypeError) as error:
            self._reply({"error": f"the request makes no sense: {error}"})

    def _do(self, request: dict[str, Any]) -> None:
        match request["op"]:
            case "exec" if self._command is None and len(self._descriptors) == 3:  # noqa: PLR2004
                first, second, third = self._descriptors
                self._command = self._session.start(_command(request), (first, second, third))
                self._command.on_end = lambda _: self._ended()
                self._command.on_output_end = self._output_ended
            case "signal" if self._command:
                self._command.send_signal(int(request["number"]))
            case "resize" if self._command:
                self._command.resize(int(request["rows"]), int(request["columns"]))
            case "stop":
                self._run.stop(request.get("grace"))
                self._reply({"stopping": True})
            case "checkpoint":
                self._run.checkpoint(self._saved, stop=request["stop"] is True)
            case _:
                raise ValueError(request["op"])

    def _saved(self, result: Saved | AppPotError) -> None:
        if isinstance(result, AppPotError):
            self._reply({"error": result.message, "hint": result.hint})
        else:
            self._reply({"saved": str(result)})

    def _output_ended(self, stream: int) -> None:
        """Give the standard output back, and let the client do so, that its reader sees the end."""
        if stream == 1 and self._descriptors:
            os.close(self._descriptors.pop(1))
            self._reply({"output": "ended"})

    def _ended(self) -> None:
        command = self._command
        if command is None or command.result is None:
            return
        if not command.flushed:
            command.on_flush = self._ended
            return
        result = command.result
        self._command = None
        command.close()
        self._reply(
            {
                "code": result.code,
                "signal": result.signal,
                "failure": result.failure,
                "errno": result.failure_errno,
            }
        )

    def _reply(self, reply: dict[str, Any]) -> None:
        with contextlib.suppress(OSError):  # who does not wait for the answer gets none
            self._connection.send(json.dumps(reply).encode() + b"\n")


def _command(request: dict[str, Any]) -> CommandSpec:
    size = request.get("terminal")
    return CommandSpec(
        arguments=tuple(map(os.fsencode, request["arguments"])),
        environment=tuple(map(os.fsencode, request["environment"])),
        directory=os.fsencode(request["directory"]),
        uid=int(request["uid"]),
        gid=int(request["gid"]),
        groups=tuple(map(int, request["groups"])),
        terminal=Terminal(int(size[0]), int(size[1])) if size else None,
        umask=int(request["umask"]),
        user=str(request["user"]),
        builtin=os.fsencode(request.get("builtin", "")),
    )


class ControlClient:
    """The other end: one request to a running machine."""

    def __init__(self, folder: str) -> None:
        self.connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            with control_address(folder) as path:
                self.connection.connect(path)
        except OSError as error:
            self.connection.close()
            raise MachineError(
                f"the machine in {folder} does not answer: {error.strerror}",
                hint="it may just have ended; see 'apppot ps'",
            ) from error
        self._buffer = b""

    def __enter__(self) -> ControlClient:  # noqa: PYI034
        """Nothing to do: the connection is there."""
        return self

    def __exit__(self, *_: object) -> None:
        """Hang up."""
        self.connection.close()

    def send(self, request: dict[str, Any], descriptors: tuple[int, ...] = ()) -> None:
        """Send one request."""
        data = json.dumps(request).encode() + b"\n"
        if descriptors:
            sent = socket.send_fds(self.connection, [data[:65536]], list(descriptors))
            data = data[sent:]
        self.connection.sendall(data)

    @property
    def has_reply(self) -> bool:
        """Whether a whole reply has been read that was not asked for."""
        return b"\n" in self._buffer

    def receive(self) -> dict[str, Any] | None:
        """Return the next reply, None when the machine has gone; raises AppPotError."""
        while not self.has_reply:
            try:
                data = self.connection.recv(65536)
            except ConnectionError:
                data = b""
            if not data:
                return None
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise MachineError(reply["error"], hint=reply.get("hint", ""))
        return reply


def run_builtin(folder: str, words: Sequence[str], source: int, target: int) -> None:
    """Let a running machine's agent do a builtin between two descriptors; raises AppPotError."""
    import tempfile

    with ControlClient(folder) as client, tempfile.TemporaryFile() as reasons:
        request = {
            "op": "exec",
            "builtin": words[0],
            "arguments": list(words),
            "environment": [],
            "directory": "/",
            "uid": 0,
            "gid": 0,
            "groups": [],
            "umask": 0o22,
            "user": "",
        }
        client.send(request, (source, target, reasons.fileno()))
        reply: dict[str, Any] | None = {}
        while reply is not None and "code" not in reply:
            reply = client.receive()
        reasons.seek(0)
        said = reasons.read().decode("utf-8", "replace").strip()
    if reply is None:
        raise MachineError("the machine ended before it was done")
    if reply["code"] != 0:
        raise MachineError(f"the machine could not do it: {said or reply['failure']}")
