"""Stop running machines: their payloads get a TERM, and the grace period to end in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apppot.control import ControlClient
from apppot.errors import UsageError
from apppot.machine import rundir
from apppot.machine.limits import parse_duration

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `stop`."""
    parser.add_argument("machines", nargs="*", metavar="ID", help="machines; see 'apppot ps'")
    parser.add_argument("--all", action="store_true", help="every machine of yours on this host")
    parser.add_argument(
        "--grace", type=parse_duration, metavar="TIME", help="instead of the run's own (20 s)"
    )


def main(options: argparse.Namespace) -> int:
    """Stop the machines and wait for their ends."""
    if bool(options.machines) == options.all:
        raise UsageError("name machines, or give --all", hint="see 'apppot ps'")
    chosen = (
        rundir.machines() if options.all else [rundir.select(name) for name in options.machines]
    )
    clients = [ControlClient(machine.path) for machine in chosen]
    for client in clients:
        client.send({"op": "stop", "grace": options.grace})
    for client in clients:
        while client.receive() is not None:
            pass
        client.connection.close()
    return 0
