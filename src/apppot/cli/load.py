"""Take in images from a file: what podman, docker, skopeo, buildah, umoci or `apppot save` wrote.

The file is an OCI layout, as an archive or a folder, or an archive of `docker save`; archives may
be compressed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add(
        "--input",
        "-i",
        default="-",
        metavar="FILE",
        help="an archive, or a layout's folder (default: '-', standard input)",
    )
    add("--name", default="", metavar="NAME[:TAG]", help="the image's name (default: its own)")
    add(
        "--platform",
        default="",
        metavar="OS/ARCH[/VARIANT]",
        help="which of several images (default: this computer's)",
    )
    add("--quiet", "-q", action="store_true", help="show no progress")


def main(options: argparse.Namespace) -> int:
    """Load the images, print their names and digests."""
    from apppot.cli.progress import Progress
    from apppot.image.loading import load

    with Progress() as progress:
        step = (lambda _: None) if options.quiet else progress.step
        loaded = load(options.input, name=options.name, platform=options.platform, step=step)
    for image in loaded:
        print(f"{image.name} {image.digest}")
    return 0
