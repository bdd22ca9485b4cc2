"""The guest's network: one passt process that needs no privilege, and its command line."""

from __future__ import annotations

import os
import re

from apppot import kit, process
from apppot.agent.spec import GuestNetwork
from apppot.lean import TYPE_CHECKING
from apppot.machine.engine import FIRST

if TYPE_CHECKING:
    from collections.abc import Iterator

ADDRESS, PREFIX = "10.0.2.15", 24
GATEWAY = "10.0.2.2"
NAME_SERVER = "10.0.2.3"
HOST_NAME = "host.apppot"


def passt_arguments(
    program: str, descriptor: int, *, host_loopback: bool, vhost_user: bool = True
) -> list[str]:
    """Return passt's command line; `descriptor` is its end of the socket pair.

    Over that go frames with their lengths; with `vhost_user`, the guest's shared memory.

    The guest's addresses are fixed and set by the agent, so passt answers no DHCP. It maps an
    address to the host's loopback only on request: services there often trust whoever can connect.
    """
    # fmt: off
    return [
        program,
        "--foreground", "--quiet",
        *(["--vhost-user"] if vhost_user else []), "--fd", str(descriptor),
        "--ipv4-only",
        "--address", ADDRESS, "--netmask", str(PREFIX), "--gateway", GATEWAY,
        "--dns-forward", NAME_SERVER,
        "--no-dhcp", "--no-dhcpv6", "--no-ndp", "--no-ra",
        "--tcp-ports", "none", "--udp-ports", "none",
        *(["--map-host-loopback", GATEWAY] if host_loopback else ["--no-map-gw"]),
    ]
    # fmt: on


def guest_network(*, host_loopback: bool, resolv_conf: str = "/etc/resolv.conf") -> GuestNetwork:
    """Return what the agent is to set up; search domains are the host's."""
    return GuestNetwork(
        addresses=(f"{ADDRESS}/{PREFIX}",),
        gateways=(GATEWAY,),
        name_servers=(NAME_SERVER,),
        search=tuple(_search_domains(resolv_conf)),
        hosts=(f"{GATEWAY} {HOST_NAME}",) if host_loopback else (),
    )


def _search_domains(path: str) -> Iterator[str]:
    """Yield the domains of the last `search` line (resolv.conf(5))."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = [line.split() for line in file]
    except OSError:
        return
    for words in reversed(lines):
        if words and words[0] in ("search", "domain"):
            yield from (word for word in words[1:] if re.fullmatch(r"[\w.-]+", word, re.ASCII))
            return


def start_passt(
    tools: kit.Kit,
    end: int,
    nothing: int,
    log: int,
    *,
    host_loopback: bool = False,
    vhost_user: bool = True,
) -> int:
    """Start passt with its end of the socket pair; return its process id."""
    program = tools.file(kit.PASST)
    confine = [tools.file(kit.CONFINE), "--parent", str(os.getpid()), "--"]
    return process.spawn(
        [
            *confine,
            *passt_arguments(program, FIRST, host_loopback=host_loopback, vhost_user=vhost_user),
        ],
        descriptors={0: nothing, 1: nothing, 2: log, FIRST: end},
        env={"PATH": process.CLEAN_PATH},
        deaf=True,
    )
