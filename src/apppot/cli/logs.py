"""Show what the guest's kernel has said on its console."""

from __future__ import annotations

import os
import select
import sys
from typing import TYPE_CHECKING

from apppot.errors import MachineError
from apppot.machine import rundir

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `logs`."""
    parser.add_argument("machine", metavar="ID", help="a machine; see 'apppot ps'")
    parser.add_argument("--follow", "-f", action="store_true", help="go on until it ends")


def main(options: argparse.Namespace) -> int:
    """Copy the console to standard output."""
    machine = rundir.select(options.machine)
    try:
        console = open(machine.file(rundir.CONSOLE), "rb")  # noqa: SIM115
    except OSError as error:
        raise MachineError(f"the console cannot be read: {error.strerror}") from error
    with console:
        _copy(console.fileno())
        if options.follow:
            ended = select.poll()
            owner = os.pidfd_open(machine.facts["pid"])
            ended.register(owner, select.POLLIN)
            while not ended.poll(200):
                _copy(console.fileno())
            os.close(owner)
            _copy(console.fileno())
    return 0


def _copy(source: int) -> None:
    while data := os.read(source, 65536):
        sys.stdout.buffer.write(data.replace(b"\r\n", b"\n"))
    sys.stdout.buffer.flush()
