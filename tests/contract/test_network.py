"""Contract: outbound network or none at all; the host's loopback only on request."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.contract.harness import AppPot

pytestmark = pytest.mark.sample


@contextlib.contextmanager
def _server() -> Iterator[tuple[int, list[bytes]]]:
    """Serve one greeting per connection on the host's loopback; collect what clients say."""
    heard: list[bytes] = []
    with socket.create_server(("127.0.0.1", 0)) as listener:
        stop = threading.Event()

        def serve() -> None:
            while not stop.is_set():
                with contextlib.suppress(OSError):
                    connection, _ = listener.accept()
                    with connection:
                        connection.settimeout(10)
                        connection.sendall(b"greeting\n")
                        heard.append(connection.recv(100))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield listener.getsockname()[1], heard
        stop.set()
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        thread.join(10)


def _connect(host: str, port: int) -> str:
    return (
        f"timeout 10 bash -c 'exec 3<>/dev/tcp/{host}/{port} && echo hello >&3"
        " && head -n1 <&3' 2>/dev/null || echo refused"
    )


def _run(apppot: AppPot, script: str, *options: str) -> bytes:
    done = apppot.call(apppot.line(("sh", "-c", script), options))
    assert done.status == 0, done
    return done.stdout


def test_none_has_only_the_loopback(apppot: AppPot) -> None:
    script = "ls /sys/class/net; cat /proc/net/route | wc -l; ip -o link show up | grep -c lo"
    assert _run(apppot, script, "--network", "none").split() == [b"lo", b"1", b"1"]
    with _server() as (port, heard):
        for host in ("10.0.2.2", "127.0.0.1"):
            found = _run(apppot, _connect(host, port), "--network", "none")
            assert found == b"refused\n"
    assert heard == []


def test_user_has_an_address_a_route_and_a_name_server(apppot: AppPot) -> None:
    script = "ip -o -4 addr show eth0; ip route; cat /etc/resolv.conf; getent hosts localhost"
    found = _run(apppot, script)
    assert b"10.0.2.15/24" in found
    assert b"default via 10.0.2.2" in found
    assert b"nameserver 10.0.2.3" in found
    assert b"localhost" in found


def test_the_hosts_loopback_is_reached_only_on_request(apppot: AppPot) -> None:
    with _server() as (port, heard):
        for host in ("10.0.2.2", "127.0.0.1", "host.apppot", "10.0.2.3"):
            assert _run(apppot, _connect(host, port)) == b"refused\n", host
        assert heard == []
        found = _run(apppot, _connect("host.apppot", port), "--host-loopback")
        assert found == b"greeting\n"
        assert heard == [b"hello\n"]


@pytest.mark.parametrize("megabytes", [32])
def test_bulk_data_arrives_whole(apppot: AppPot, megabytes: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                for _ in range(megabytes):
                    connection.sendall(b"x" * (1 << 20))

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        script = f"timeout 60 bash -c 'cat </dev/tcp/host.apppot/{port} | wc -c'"
        assert int(_run(apppot, script, "--host-loopback")) == megabytes << 20
        thread.join(10)
