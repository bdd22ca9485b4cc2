"""Run one more command in a running machine.

It has the payload's user, environment and working directory unless the options say otherwise.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from apppot.cli.options import add_command_options

if TYPE_CHECKING:
    import argparse

TAKES_COMMAND = True


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `exec`."""
    parser.usage = "apppot exec [OPTION...] ID [--] COMMAND [ARGUMENT...]"
    parser.add_argument("image", metavar="ID", help="a machine; see 'apppot ps'")
    parser.add_argument("--tty", "-t", action="store_true", help="on a terminal")
    add_command_options(parser, user="the payload's", workdir="the payload's")


def main(options: argparse.Namespace) -> int:
    """Run the command and return its exit status."""
    from apppot.attach import execute

    return execute(
        options.image,
        [os.fsencode(word) for word in options.command],
        terminal=options.tty,
        settings=options.env,
        user=options.user,
        workdir=options.workdir,
    )
