"""Write images to a file that other programs can load, and `apppot load` on another computer.

The layers are archived by a machine of AppPot's own.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add("images", metavar="IMAGE", nargs="+", help="NAME[:TAG], a digest, or its beginning")
    add("--output", "-o", default="-", metavar="FILE", help="default: '-', standard output")
    add(
        "--format",
        default="oci",
        choices=("oci", "docker"),
        help="an OCI layout, or what 'docker save' writes (default: oci)",
    )


def main(options: argparse.Namespace) -> int:
    """Save the images."""
    from apppot.cli.progress import Progress
    from apppot.image.loading import save

    with Progress() as progress:
        save(options.images, options.output, docker=options.format == "docker", step=progress.step)
    return 0
