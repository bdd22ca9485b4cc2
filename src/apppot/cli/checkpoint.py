"""Save running machines in the folders that they were started with (--checkpoint-dir).

The payload stands still for a moment, and then goes on; or, with --stop, its run ends with
status 85. 'apppot restore DIR' goes on from there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from apppot.control import ControlClient
from apppot.errors import MachineError
from apppot.machine import rundir

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `checkpoint`."""
    parser.add_argument("machines", nargs="+", metavar="ID", help="machines; see 'apppot ps'")
    parser.add_argument("--stop", action="store_true", help="end the run when it is saved")


def main(options: argparse.Namespace) -> int:
    """Save the machines, one after the other."""
    for machine in [rundir.select(name) for name in options.machines]:
        with ControlClient(machine.path) as client:
            client.send({"op": "checkpoint", "stop": options.stop})
            reply = client.receive()
        if reply is None:
            raise MachineError(f"the machine {machine.ident} ended before it was saved")
        print(f"{machine.ident} {reply['saved']}")
    return 0
