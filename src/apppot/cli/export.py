"""Write an image to a file for other programs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

_FORMATS = ("tar", "oci", "squashfs", "sif", "erofs")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("image", metavar="IMAGE", help="NAME[:TAG], a digest, or its beginning")
    parser.add_argument("--output", "-o", metavar="FILE", required=True, help="the file to write")
    parser.add_argument(
        "--format",
        "-f",
        choices=_FORMATS,
        required=True,
        help="tar: all layers as one archive; oci: as 'save' does; squashfs, sif (Apptainer) and"
        " erofs: all layers as one file system",
    )


def main(options: argparse.Namespace) -> int:
    """Write the file."""
    from apppot.agent import terminal
    from apppot.image import export
    from apppot.image.sizes import human

    size = export.export(options.image, export.Format(options.format), options.output)
    terminal.tell(f"{options.output}: {human(size)}")
    return 0
