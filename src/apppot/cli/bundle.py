"""Make one file of an image that runs by itself, with nothing but Python on the node.

    ./FILE COMMAND [ARGUMENT...]

The layers are used in place. AppPot's own files, and the kit's with --kit, are unpacked once per
host.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("image", metavar="IMAGE", help="NAME[:TAG], a digest, or its beginning")
    parser.add_argument("--output", "-o", metavar="FILE", required=True, help="the file to write")
    parser.add_argument(
        "--kit", action="store_true", help="put the kit in, for nodes that have none (7 MB)"
    )
    parser.add_argument(
        "--without-base",
        action="store_true",
        help="leave the base's layers out: the node's stores have them",
    )


def main(options: argparse.Namespace) -> int:
    """Write the bundle."""
    from apppot.agent import terminal
    from apppot.image import bundle
    from apppot.image.sizes import human

    size = bundle.make(
        options.image, options.output, kit=options.kit, without_base=options.without_base
    )
    terminal.tell(f"{options.output}: {human(size)}")
    return 0
