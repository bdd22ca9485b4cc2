"""Run a command in its own virtual machine, as if it ran here.

The command's arguments, standard streams, signals and exit status are its own. It starts in /job,
which is the current folder unless --job-dir says otherwise. Without a command, the image's own.
"""

from __future__ import annotations

import contextlib
import sys

from apppot.cli.options import add_machine_options, request_from, warn
from apppot.lean import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

TAKES_COMMAND = True


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `run`."""
    parser.usage = "apppot run [OPTION...] IMAGE [--] [COMMAND [ARGUMENT...]]"
    parser.add_argument("image", metavar="IMAGE", help="NAME[:TAG] or digest; see 'apppot images'")
    parser.add_argument(
        "--tty", "-t", action="store_true", help="give the command a terminal of its own"
    )
    add_machine_options(parser)


def main(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    return run_machine(options, options.command, terminal=options.tty)


def run_machine(options: argparse.Namespace, command: Sequence[str], *, terminal: bool) -> int:
    """Run a machine for a verb's options; tell its troubles; return the exit status."""
    from apppot.agent.terminal import find
    from apppot.run import run

    if terminal:
        find()
    with contextlib.ExitStack() as stack:
        report = None
        if options.report:
            from apppot.report import ReportFile

            report = stack.enter_context(ReportFile(options.report))
        finished = run(request_from(options, command, terminal=terminal), warn)
        outcome = finished.outcome
        if outcome.message:
            hint = f"\n  hint: {outcome.hint}" if outcome.hint else ""
            print(f"apppot: {outcome.message}{hint}", file=sys.stderr)
        for note in outcome.notes:
            warn(note)
        if report:
            from apppot.report import report as summary

            report.write(summary(finished))
    return int(outcome.status)
