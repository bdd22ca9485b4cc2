"""Remove what killed runs, builds and downloads have left on this host."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from apppot.machine import rundir

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `prune`."""
    parser.add_argument("--quiet", "-q", action="store_true", help="do not say what was removed")


def main(options: argparse.Namespace) -> int:
    """Sweep the folders of dead machines and the store's unfinished files."""
    from apppot import paths
    from apppot.image import workplace
    from apppot.image.store import stores

    removed = [f"machine {ident}" for ident in rundir.sweep()]
    removed += workplace.sweep(paths.scratch_dir())
    own = stores()[0]
    if os.path.isdir(own.path) and not os.access(own.path, os.W_OK):
        about = "left as it is, because it is only read here"  # a site's, named by APPPOT_STORE
    else:
        about = own.clean().told()
    if not options.quiet:
        for text in removed:
            print(f"removed {text}")
        print(f"store {own.path}: {about}")
    return 0
