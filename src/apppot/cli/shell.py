"""Open an interactive shell in a new virtual machine, with job control.

The machine and everything written to its own file system end with the shell, unless --save keeps
the changes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from apppot.cli.options import (
    add_machine_options,
    add_save_options,
    request_from,
    wanted_from,
)
from apppot.lean import replace
from apppot.run import run_for_user

if TYPE_CHECKING:
    import argparse

# The image's best shell; every image that has a shell at all has /bin/sh.
SHELL = ("/bin/sh", "-c", "if command -v bash >/dev/null; then exec bash -l; fi; exec sh -l")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `shell`."""
    parser.usage = "apppot shell [OPTION...] IMAGE"
    parser.add_argument("image", metavar="IMAGE", help="NAME[:TAG] or digest; see 'apppot images'")
    add_machine_options(parser)
    add_save_options(parser)


def main(options: argparse.Namespace) -> int:
    """Run the shell and return its exit status."""
    request = replace(request_from(options, SHELL, terminal=True), entrypoint=())
    save = wanted_from(options, options.save) if options.save else None
    return run_for_user(request, options.report, save)
