"""Keep what a running machine has changed so far as a new image.

The machine goes on. What programs are just writing may be saved in part; `apppot run` with --save
saves when the payload has ended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from apppot.cli.options import add_keep_options, wanted_from

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `commit`."""
    parser.add_argument(
        "machine", metavar="ID", help="a machine ('apppot ps'); with --archive, an image"
    )
    parser.add_argument("name", metavar="NAME[:TAG]", help="the new image")
    parser.add_argument(
        "--archive", metavar="FILE", help="take the changes to the image ID from a tar archive"
    )
    add_keep_options(parser)


def main(options: argparse.Namespace) -> int:
    """Make the image and say so."""
    from apppot.agent import terminal
    from apppot.image import committing

    wanted = wanted_from(options, options.name)
    if options.archive:
        saved = committing.from_archive(options.machine, options.archive, wanted)
    else:
        saved = committing.from_machine(options.machine, wanted)
    terminal.tell(saved)
    return 0
