"""List the images in the stores: the user's own, and the site's."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--json", action="store_true", help="print JSON, with sizes in bytes")
    parser.add_argument("--quiet", "-q", action="store_true", help="print names only")


def main(options: argparse.Namespace) -> int:
    """Print the images; the status is 1 if one is damaged."""
    import json
    import sys

    from apppot.image.listing import listing, table

    found = listing()
    if options.json:
        print(json.dumps(found.json(), indent=2, ensure_ascii=False))
    elif options.quiet:
        for image in found.images:
            print(image.reference)
    else:
        print(table(found.images), end="")
    problems = [*found.problems, *(line.problem for line in found.images if line.problem)]
    for problem in problems:
        print(f"apppot: {problem}", file=sys.stderr)
    if not (found.images or problems or options.json or options.quiet):
        print("no images yet; make one with 'apppot bootstrap debian:SUITE'", file=sys.stderr)
    return 1 if problems else 0
