"""Execute one more command in a running machine, from another process of the same user."""

from __future__ import annotations

import contextlib
import os
import signal
from typing import TYPE_CHECKING, Any

from apppot.agent import terminal
from apppot.agent.loop import READ, Loop, Signals
from apppot.agent.results import CommandResult
from apppot.agent.streams import let_go
from apppot.control import ControlClient
from apppot.drive import RELAYED
from apppot.ending import command_status, command_trouble
from apppot.errors import AppPotError, ExitStatus, MachineError, UsageError
from apppot.identity import identity
from apppot.machine import rundir

if TYPE_CHECKING:
    from collections.abc import Sequence


def execute(
    name: str,
    command: Sequence[bytes],
    *,
    terminal: bool,
    settings: Sequence[bytes],
    user: str | None,
    workdir: str | None,
) -> int:
    """Return the exit status of a command in the machine `name`; raises AppPotError."""
    if not command:
        raise UsageError("no command given", hint="apppot exec ID -- COMMAND")
    machine = rundir.select(name)
    request = _request(machine.facts, command, settings, user, workdir)
    with contextlib.ExitStack() as stack:
        if terminal:
            size = _terminal_size()
            request["terminal"] = size
            request["environment"].append("TERM=" + os.environ.get("TERM", "linux"))
        client = stack.enter_context(ControlClient(machine.path))
        client.send(request, _standard_streams(stack))
        return _wait(client, stack, command, on_terminal=terminal)


def _request(
    facts: dict[str, Any],
    command: Sequence[bytes],
    settings: Sequence[bytes],
    user: str | None,
    workdir: str | None,
) -> dict[str, Any]:
    environment = dict(text.split("=", 1) for text in facts["environment"])
    who = {"uid": facts["uid"], "gid": facts["gid"], "user": facts["user"]}
    if user is not None:
        new = identity(user)
        who = {"uid": new.uid, "gid": new.gid, "user": new.image_name}
        for key in ("HOME", "USER", "LOGNAME"):
            environment.pop(key, None)
        if not new.image_name:
            environment |= {"HOME": new.home, "USER": new.name, "LOGNAME": new.name}
    environment |= dict(os.fsdecode(setting).split("=", 1) for setting in settings)
    return {
        "op": "exec",
        "arguments": [os.fsdecode(word) for word in command],
        "environment": [f"{key}={value}" for key, value in environment.items()],
        "directory": workdir or facts["directory"],
        "groups": [who["gid"]] if who["uid"] else [],
        "umask": facts["umask"],
        **who,
    }


def _terminal_size() -> list[int]:
    found = terminal.size(terminal.find())
    return [found.rows, found.columns]


def _standard_streams(stack: contextlib.ExitStack) -> tuple[int, int, int]:
    """Return the three standard descriptors; /dev/null for those that are closed."""
    streams = []
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            descriptor = os.open(os.devnull, os.O_RDWR)  # noqa: PLW2901
            stack.callback(os.close, descriptor)
        streams.append(descriptor)
    return streams[0], streams[1], streams[2]


def _wait(
    client: ControlClient,
    stack: contextlib.ExitStack,
    command: Sequence[bytes],
    *,
    on_terminal: bool,
) -> int:
    loop = Loop()

    def relay(number: int) -> None:
        if number == signal.SIGWINCH:
            rows, columns = _terminal_size()
            client.send({"op": "resize", "rows": rows, "columns": columns})
        else:
            client.send({"op": "signal", "number": number})

    watched = (*RELAYED, signal.SIGWINCH) if on_terminal else RELAYED
    stack.enter_context(Signals(loop, watched, relay))
    if on_terminal:
        stack.enter_context(terminal.Raw(0))
    loop.watch(client.connection.fileno(), READ, lambda _: loop.stop())
    reply: dict[str, Any] | None = {}
    while reply is not None and "code" not in reply:
        if not client.has_reply:
            loop.run()
        reply = client.receive()
        if reply == {"output": "ended"}:
            let_go(1)
    if reply is None:
        raise MachineError("the machine ended before the command did")
    result = CommandResult(
        code=reply["code"],
        signal=reply["signal"],
        failure=reply["failure"],
        failure_errno=reply["errno"],
    )
    if result.failure:
        message, hint = command_trouble(command[0], result)
        raise AppPotError(message, hint=hint, status=ExitStatus(command_status(result)))
    return command_status(result)
