"""Run a command in its own virtual machine, as if it ran here.

The command's arguments, standard streams, signals and exit status are its own. It starts in /job,
which is the current folder unless --job-dir says otherwise. Without a command, the image's own.
"""

from __future__ import annotations

import os

from apppot.cli.checkpoints import add_checkpoint_options, checkpoint_from
from apppot.cli.options import (
    add_machine_options,
    add_save_options,
    request_from,
    wanted_from,
    words,
)
from apppot.lean import TYPE_CHECKING, replace
from apppot.run import run_for_user

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from apppot.request import RunRequest

TAKES_COMMAND = True


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `run`."""
    parser.usage = "apppot run [OPTION...] IMAGE [--] [COMMAND [ARGUMENT...]]"
    parser.add_argument("image", metavar="IMAGE", help="NAME[:TAG] or digest; see 'apppot images'")
    parser.add_argument(
        "--tty", "-t", action="store_true", help="give the command a terminal of its own"
    )
    parser.add_argument(
        "--entrypoint",
        metavar="WORDS",
        help="what goes before the command, instead of the image's: words or a JSON list; '' for"
        " nothing",
    )
    add_machine_options(parser)
    add_save_options(parser)
    add_checkpoint_options(parser)


def main(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    request = run_request(options, options.command)
    request = replace(request, checkpoint=checkpoint_from(options))
    save = wanted_from(options, options.save) if options.save else None
    return run_for_user(request, options.report, save)


def run_request(options: argparse.Namespace, command: Sequence[str]) -> RunRequest:
    """Return the request that the options make, all but checkpoints."""
    request = request_from(options, command, terminal=options.tty)
    if options.entrypoint is not None:
        request = replace(request, entrypoint=tuple(map(os.fsencode, words(options.entrypoint))))
    return replace(request, stage=options.stage)
