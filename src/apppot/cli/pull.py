"""Fetch an image from a registry, as an ordinary user.

Its layers are turned into EROFS files as they arrive. Layers that are in a store already are not
fetched again, and a pull that was interrupted goes on where it ended. For what is not public, the
credentials are used that docker or podman have saved when you logged in with them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add("reference", metavar="REF", help="[HOST[:PORT]/]NAME[:TAG][@sha256:DIGEST]")
    add("--name", default="", metavar="NAME[:TAG]", help="the image's name here (default: REF)")
    add(
        "--platform",
        default="",
        metavar="OS/ARCH[/VARIANT]",
        help="which of several images (default: this computer's)",
    )
    add("--plain-http", action="store_true", help="the registry has no TLS")
    add("--quiet", "-q", action="store_true", help="show no progress, print the digest only")


def main(options: argparse.Namespace) -> int:
    """Pull the image, print its name and digest."""
    from apppot.cli.progress import Progress
    from apppot.image.registry.pull import pull

    with Progress() as progress:
        pulled = pull(
            options.reference,
            name=options.name,
            platform=options.platform,
            plain_http=options.plain_http,
            step=(lambda _: None) if options.quiet else progress.step,
        )
    print(pulled.digest if options.quiet else f"{pulled.name} {pulled.digest}")
    return 0
