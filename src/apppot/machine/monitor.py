"""The monitor of a machine under QEMU (QMP): what its launcher asks of it, bit by bit."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from typing import TYPE_CHECKING, Any, Self

from qemu.qmp import QMPClient, QMPError

from apppot.errors import MachineError

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Coroutine

PATIENCE = 30.0  # seconds that QEMU may take for an answer
_LOOK = 0.005  # seconds between looks at what takes a while; versions differ in their events
_OFTEN = 0.1  # seconds between looks at what else may have happened
_GIVEN = "state"  # QEMU's name for the descriptor that it writes to


class Monitor:
    """A connection to QEMU, which has only this one; the launcher's loop stands while it is used.

    All methods raise MachineError if QEMU refuses, does not answer, or has gone.
    """

    def __init__(self, descriptor: int) -> None:
        """Take over the descriptor of a connected socket."""
        logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)
        self._loop = asyncio.new_event_loop()
        self._client = QMPClient("apppot")
        self._socket: socket.socket | None = socket.socket(fileno=os.dup(descriptor))

    def __enter__(self) -> Self:
        """Nothing to do: the first request connects."""
        return self

    def __exit__(self, *_: object) -> None:
        """Hang up."""
        if self._socket is None:
            with contextlib.suppress(QMPError, OSError, EOFError):
                self._loop.run_until_complete(self._client.disconnect())
        else:
            self._socket.close()
        self._loop.close()

    def ask(self, command: str, **arguments: object) -> Any:
        """Return QEMU's answer to a command."""
        return self._wait(self._ask(command, arguments), command)

    def stop(self) -> None:
        """Let the guest stand still, and write what it has given to its disks to their files."""
        self.ask("stop")

    def go_on(self) -> None:
        """Let the guest run."""
        self.ask("cont")

    def save(self, target: int) -> None:
        """Write the state of memory and devices to a descriptor of a pipe, whole."""
        self._wait(self._save(target), "save the machine's memory", patience=None)

    def wait_until_loaded(self, given: threading.Event, look: Callable[[], None]) -> None:
        """Wait until the state that QEMU was started with has been read.

        From when all of it was `given`, that may take as long as an answer. Meanwhile `look`,
        which may raise: QEMU says nothing while it reads.
        """
        loaded = _looking(self._loaded(given), look)
        self._wait(loaded, "load the machine's memory", patience=None)

    def facts(self) -> tuple[str, str]:
        """Return QEMU's version, and the name of its machine type with that one's version."""
        version = self.ask("query-version")["qemu"]
        machine = self.ask("qom-get", path="/machine", property="type")
        text = ".".join(str(version[part]) for part in ("major", "minor", "micro"))
        return text, str(machine).removesuffix("-machine")

    def _wait(self, work: Any, what: str, *, patience: float | None = PATIENCE) -> Any:
        try:
            return self._loop.run_until_complete(asyncio.wait_for(work, patience))
        except TimeoutError:
            raise MachineError(f"QEMU did not answer within {PATIENCE:.0f} s ({what})") from None
        except (QMPError, OSError, EOFError) as error:
            raise MachineError(f"QEMU did not {what}: {error}") from error

    async def _ask(self, command: str, arguments: dict[str, object]) -> Any:
        if self._socket is not None:
            connection, self._socket = self._socket, None
            await self._client.connect(connection)
        return await self._client.execute(command, arguments)

    async def _save(self, target: int) -> None:
        # By default 128 MiB/s, so that a network is left to others.
        await self._ask("migrate-set-parameters", {"max-bandwidth": 1 << 50})
        self._client.send_fd_scm(target)
        await self._ask("getfd", {"fdname": _GIVEN})
        await self._ask("migrate", {"uri": f"fd:{_GIVEN}"})
        while True:
            found = await self._ask("query-migrate", {})
            if found["status"] == "completed":
                return
            if found["status"] in ("failed", "cancelled"):
                raise MachineError(
                    "the machine's memory could not be saved"
                    + (f": {found['error-desc']}" if "error-desc" in found else "")
                )
            await asyncio.sleep(_LOOK)

    async def _loaded(self, given: threading.Event) -> None:
        late = 0.0
        while (await self._ask("query-status", {}))["status"] == "inmigrate":
            if given.is_set():
                late = late or time.monotonic() + PATIENCE
                if time.monotonic() > late:
                    raise TimeoutError
            await asyncio.sleep(_LOOK)


async def _looking(work: Coroutine[Any, Any, None], look: Callable[[], None]) -> None:
    """Wait for `work`, and `look` every now and then."""
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            look()
            await asyncio.wait({task}, timeout=_OFTEN)
    finally:
        task.cancel()
        await asyncio.wait({task})
    await task
