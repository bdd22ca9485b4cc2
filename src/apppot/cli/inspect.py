"""Show an image in detail, as JSON: its layers with their files, its configuration, its origin."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("image", metavar="IMAGE", help="NAME[:TAG], a digest, or its beginning")
    parser.add_argument("--verify", action="store_true", help="read all blobs, check their digests")


def main(options: argparse.Namespace) -> int:
    """Print the image's description."""
    import json

    from apppot.image.listing import inspect

    print(json.dumps(inspect(options.image, verify=options.verify), indent=2, ensure_ascii=False))
    return 0
