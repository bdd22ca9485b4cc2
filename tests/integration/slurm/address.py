"""Where the daemons of a test's cluster listen: a host name that has an address, and free ports."""

from __future__ import annotations

import contextlib
import functools
import random
import socket

PORTS = 32  # per cluster: controller, nodes, and a range for srun
LOOPBACK = "0x7f000001"


@functools.cache
def found_by_name() -> list[str]:
    """Return what goes before a daemon's words: they listen at the address of the host's name.

    A container's name may have none, and there may be no /etc/hosts. The daemons then get a host
    name of their own, which inet_aton(3) takes for an address.
    """
    try:
        socket.getaddrinfo(socket.gethostname(), None)
    except socket.gaierror:
        return ["unshare", "--uts", "sh", "-c", f'hostname {LOOPBACK} && exec "$@"', "sh"]
    return []


def host_name() -> str:
    """Return the host name that the daemons find themselves by."""
    return LOOPBACK if found_by_name() else socket.gethostname()


def free_ports() -> int:
    """Return the first of a row of ports that nobody uses."""
    for _ in range(100):
        first = random.randrange(20000, 32000)
        with contextlib.ExitStack() as stack, contextlib.suppress(OSError):
            for port in range(first, first + PORTS):
                stack.enter_context(socket.socket()).bind(("127.0.0.1", port))
            return first
    raise AssertionError("no free ports")
