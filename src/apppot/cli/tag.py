"""Give an image one more name in the store.

An image of the site's store gets a name in one's own; its layers stay where they are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("image", metavar="IMAGE", help="NAME[:TAG], a digest, or its beginning")
    parser.add_argument("new", metavar="NEW", help="the new NAME[:TAG]")
    parser.add_argument("--force", action="store_true", help="take the name from another image")


def main(options: argparse.Namespace) -> int:
    """Tag, and print the digest."""
    from apppot.image.listing import tag

    print(tag(options.image, options.new, replace=options.force))
    return 0
