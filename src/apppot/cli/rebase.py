"""Move changes to a newer base.

The changes are those in a file, or in an image; the result is an image, or with -o a file. If both
sides have changed a file, the conflicts are listed, nothing is written, and the status is 3.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from apppot.errors import UsageError

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("subject", metavar="IMAGE|FILE", help="an image with changes, or a file")
    parser.add_argument("onto", metavar="NEWBASE", help="the image to move them to")
    parser.add_argument("name", metavar="NEW[:TAG]", nargs="?", help="the new image")
    parser.add_argument("--output", "-o", metavar="FILE", help="write a changes file instead")
    parser.add_argument(
        "--take",
        choices=("ours", "theirs"),
        help="what becomes of files that both have changed: ours, the changes' version; theirs,"
        " the new base's",
    )
    parser.add_argument(
        "--base", default="", metavar="IMAGE", help="what the image was made from, if unknown"
    )
    parser.add_argument("--force", action="store_true", help="the name may be taken")


def main(options: argparse.Namespace) -> int:
    """Move the changes, and list the conflicts."""
    from apppot.agent import terminal
    from apppot.image import rebase

    if bool(options.name) == bool(options.output):
        raise UsageError("give either the name of a new image, or a file with -o")
    done = rebase.rebase(
        options.subject,
        options.onto,
        image=options.name or "",
        file=options.output or "",
        take=rebase.Take(options.take) if options.take else None,
        force=options.force,
        base=options.base,
    )
    for path in done.conflicts:
        terminal.tell(f"both have changed {path!r}: took {options.take}")
    terminal.tell(f"made {done.made}")
    return 0
