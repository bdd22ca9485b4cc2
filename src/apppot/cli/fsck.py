"""Read the whole store, and name each damaged object and the images that it breaks.

The status is 1 if something is damaged. What only takes space (what no image needs, what killed
writers have left) is told and does not count; 'apppot gc' removes it. Nothing is changed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

    from apppot.image.fsck import Report

MOST_NOTES = 10


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument(
        "--all-stores", action="store_true", help="the site's stores as well, not the own one only"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--verbose", "-v", action="store_true", help="list all that takes space")


def main(options: argparse.Namespace) -> int:
    """Print what was found; the status is 1 if something is damaged."""
    import json

    from apppot.image.fsck import check
    from apppot.image.store import stores

    known: dict[str, str] = {}
    chosen = stores() if options.all_stores else stores()[:1]
    reports = [check(store, known) for store in chosen]
    if options.json:
        print(json.dumps([report.json() for report in reports], indent=2))
    else:
        for report in reports:
            _tell(report, verbose=options.verbose)
    return 1 if any(report.damage for report in reports) else 0


def _tell(report: Report, *, verbose: bool) -> None:
    """Print a store's report."""
    from apppot.image.sizes import human

    result = f"{len(report.damage)} damaged" if report.damage else "sound"
    blobs = f"{report.images} images, {report.blobs} blobs, {human(report.size)}"
    print(f"{report.store}: {blobs}: {result}")
    for problem in report.damage:
        print(f"damaged: {problem.path}: {problem.what}")
        for image in problem.images:
            print(f"  breaks {image}")
    shown = report.notes if verbose else report.notes[:MOST_NOTES]
    for note in shown:
        print(f"note: {note.path}: {note.what}")
    if len(shown) < len(report.notes):
        print(f"note: {len(report.notes) - len(shown)} more; --verbose lists them")
    if any(problem.images for problem in report.damage):
        print("hint: remove broken images with 'apppot rm IMAGE', and make or fetch them again")
