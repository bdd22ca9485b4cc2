"""Remove images from the store, and the layers that no other image needs.

Machines that run go on: what they have opened stays until they end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "images", metavar="IMAGE", nargs="+", help="NAME[:TAG], a digest, or its beginning"
    )
    parser.add_argument(
        "--force",
        action="store_true",
        help="no error if an image is not there; remove all names of a digest",
    )


def main(options: argparse.Namespace) -> int:
    """Remove the images, say which and how much space it gave."""
    import sys

    from apppot.image.listing import remove
    from apppot.image.sizes import human

    removed = remove(options.images, force=options.force)
    for name in removed.images:
        print(name)
    if removed.busy:
        print(
            "apppot: something is being written to the store; the space will be free after"
            " 'apppot prune'",
            file=sys.stderr,
        )
    elif removed.images:
        print(f"apppot: {human(removed.size)} are free again", file=sys.stderr)
    return 0
