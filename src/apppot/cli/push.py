"""Send an image to a registry, where other programs can have it as well.

Layers that the registry has are not sent. The others are archived by a machine of AppPot's own,
and compressed with gzip. Credentials are those that docker or podman have saved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add("image", metavar="IMAGE", help="NAME[:TAG], a digest, or its beginning")
    add("reference", metavar="REF", help="HOST[:PORT]/NAME[:TAG]")
    add("--plain-http", action="store_true", help="the registry has no TLS")
    add("--quiet", "-q", action="store_true", help="show no progress, print the digest only")


def main(options: argparse.Namespace) -> int:
    """Push the image, print its reference and its digest in the registry."""
    from apppot.cli.progress import Progress
    from apppot.image.registry.push import push

    with Progress() as progress:
        pushed = push(
            options.image,
            options.reference,
            plain_http=options.plain_http,
            step=(lambda _: None) if options.quiet else progress.step,
        )
    print(pushed.digest if options.quiet else f"{pushed.name} {pushed.digest}")
    return 0
