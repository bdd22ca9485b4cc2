"""Listen at a running machine's control socket: what speaks there is loaded when somebody calls."""

from __future__ import annotations

from _socket import AF_UNIX, SOCK_STREAM, socket  # Python's own `socket` takes 2 ms

from apppot.agent.loop import READ
from apppot.lean import TYPE_CHECKING
from apppot.machine.rundir import control_address

if TYPE_CHECKING:
    from apppot.agent.session import Session
    from apppot.control import Served
    from apppot.drive import Driver
    from apppot.machine.rundir import RunDir


class ControlServer:
    """Serve a machine's control socket from the launcher's loop."""

    def __init__(self, run: RunDir, session: Session, driver: Driver) -> None:
        self._session = session
        self._run = driver
        self._clients: set[Served] = set()
        self._socket = socket(AF_UNIX, SOCK_STREAM)
        with control_address(run.path) as path:
            self._socket.bind(path)
        self._socket.listen(16)
        self._socket.setblocking(False)

    def __enter__(self) -> ControlServer:  # noqa: PYI034
        """Begin to listen."""
        self._session.loop.watch(self._socket.fileno(), READ, lambda _: self._accept())
        return self

    def __exit__(self, *_: object) -> None:
        """Hang up on everybody."""
        for client in list(self._clients):
            client.close()
        self._session.loop.unwatch(self._socket.fileno())
        self._socket.close()

    def _accept(self) -> None:
        from apppot.control import Served, accepted

        connection = accepted(self._socket.fileno())
        if connection:
            self._clients.add(Served(connection, self._session, self._run, self._clients.discard))
