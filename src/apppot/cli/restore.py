"""Go on with a saved machine: its payload is in the middle of what it did when it was saved.

Standard streams, signals and exit status are the payload's, as with 'apppot run'. DIR is left as it
is until the machine is saved there again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from apppot.cli.checkpoints import add_signal_option
from apppot.machine.limits import parse_duration

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `restore`."""
    parser.add_argument("folder", metavar="DIR", help="where the machine was saved")
    add_signal_option(parser)
    parser.add_argument(
        "--time-limit",
        type=parse_duration,
        metavar="TIME",
        help="send TERM after TIME (90, 1h30m, 00:10:00), and kill after the grace period",
    )
    parser.add_argument(
        "--grace",
        type=parse_duration,
        metavar="TIME",
        help="time between the first TERM and the machine's end (as in the run that was saved)",
    )
    parser.add_argument(
        "--job-dir", metavar="DIR", help="with --stage, where changes of /job are put (as before)"
    )
    parser.add_argument("--report", metavar="FILE", help="write a JSON report")
    parser.add_argument("--verbose", "-v", action="store_true", help="say what is done, and why")


def main(options: argparse.Namespace) -> int:
    """Go on with the machine and return the payload's exit status."""
    from apppot.checkpoint.restoring import RestoreRequest, restore_for_user

    request = RestoreRequest(
        options.folder,
        options.checkpoint_on,
        options.grace,
        options.time_limit,
        options.verbose,
        options.job_dir,
    )
    return restore_for_user(request, options.report)
