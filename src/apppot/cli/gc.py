"""Remove from the store what no image needs, and what killed writers have left.

Steps of builds are kept for a while (the setting cache.days), so that the next build is quick. What
images of other stores of the search path need is kept. Layers that have arrived in part wait seven
days for the next pull (or as long as --days says, if that is less).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--dry-run", "-n", action="store_true", help="only list what would go")
    parser.add_argument(
        "--days",
        type=int,
        metavar="N",
        help="drop steps of builds not used for N days (30; 0: all)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def main(options: argparse.Namespace) -> int:
    """Remove, and say how much; the status is 1 if a writer was at work."""
    import json
    import sys
    from dataclasses import asdict

    from apppot import config
    from apppot.image import cleaning
    from apppot.image.store import stores

    store = stores()[0]
    days = config.number("cache.days") if options.days is None else max(0, options.days)
    done = cleaning.gc(store, days=days, dry_run=options.dry_run)
    if options.json:
        print(json.dumps({"store": store.path, "dry_run": options.dry_run, **asdict(done)}))
    else:
        if options.dry_run:
            for path in done.paths:
                print(path)
        would = "" if done.busy else "would remove " if options.dry_run else "removed "
        print(f"{store.path}: {would}{done.told()}", file=sys.stderr)
    return 1 if done.busy else 0
