"""Show how much space the images take, and what could be had back.

SIZE is all of an image, UNIQUE what would be free without it, ELSEWHERE what of it lies in another
store. Blobs that several images share are counted once in a store's total.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--json", action="store_true", help="print JSON, with sizes in bytes")


def main(options: argparse.Namespace) -> int:
    """Print the table; the status is 1 if an image or a store is damaged."""
    import json
    import os
    import sys

    from apppot.image.space import measure, table
    from apppot.image.store import stores

    first, *others = stores()
    totals = [measure(store) for store in (first, *(s for s in others if os.path.isdir(s.path)))]
    if options.json:
        print(json.dumps([total.json() for total in totals], indent=2))
    else:
        print(table(totals), end="")
    problems = [total.problem for total in totals if total.problem]
    problems += [image.problem for total in totals for image in total.images if image.problem]
    for problem in problems:
        print(f"apppot: {problem}", file=sys.stderr)
    return 1 if problems else 0
