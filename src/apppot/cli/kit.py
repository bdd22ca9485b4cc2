"""Build, show or verify the kit: the static binaries that boot appliances.

apppot kit build    make the kit from source, without root (a few minutes)
apppot kit show     say what is in the kit and where it came from
apppot kit verify   hash every file of the kit
apppot kit path     print the kit's folder
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

from apppot import kit
from apppot.errors import ExitStatus, KitError

if TYPE_CHECKING:
    import argparse
    from types import FrameType


def configure(parser: argparse.ArgumentParser) -> None:
    """Declare the verb's actions and options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _configure_build(actions.add_parser("build", help="make the kit from source"))
    show = actions.add_parser("show", help="say what is in the kit")
    show.add_argument("--json", action="store_true", help="print kit.json")
    verify = actions.add_parser("verify", help="hash every file of the kit")
    verify.add_argument(
        "--current",
        action="store_true",
        help="fail, too, if it was made from other recipes or patches than this AppPot's",
    )
    for action in (show, verify):
        action.add_argument("folder", nargs="?", help="the kit (default: the one that runs use)")
    actions.add_parser("path", help="print the kit's folder")


def _configure_build(build: argparse.ArgumentParser) -> None:
    build.add_argument(
        "--output", metavar="DIR", default="", help="where to put it (default: the user's cache)"
    )
    build.add_argument(
        "--mirror", metavar="URL", default="", help="Debian archive (default: the host's own)"
    )
    build.add_argument(
        "--allow-expired",
        action="store_true",
        help="use suites whose Release file has expired, too",
    )
    build.add_argument(
        "--sources", metavar="DIR", default="", help="a folder with the pinned archives"
    )
    build.add_argument(
        "--only",
        metavar="COMPONENT",
        action="append",
        default=[],
        help="build this component only, and keep the others of the kit in DIR (repeatable)",
    )
    build.add_argument("--jobs", metavar="N", type=int, default=0, help="parallel compilers")
    build.add_argument("--no-cache", action="store_true", help="build everything anew")
    build.add_argument("--quiet", action="store_true", help="print nothing but errors")


def main(options: argparse.Namespace) -> int:
    """Do what the action says."""
    actions = {"build": _build, "show": _show, "verify": _verify, "path": _path}
    return actions[options.action](options)


def _build(options: argparse.Namespace) -> int:
    from apppot.kit.build import BuildOptions, build
    from apppot.kit.progress import Progress
    from apppot.kit.sources import Options

    progress = Progress(quiet=options.quiet)
    sources = Options(options.mirror, options.allow_expired, options.sources)
    wanted = BuildOptions(
        options.output, sources, tuple(options.only), options.jobs, not options.no_cache
    )
    signal.signal(signal.SIGTERM, _interrupt)  # so that what is half-made is removed
    path = build(wanted, progress)
    progress.note(f"the kit is in {path} ({progress.elapsed:.1f} s)")
    return ExitStatus.OK


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise SystemExit(ExitStatus.SIGNAL_BASE + signal.SIGTERM)


def _folder(options: argparse.Namespace) -> str:
    return os.path.realpath(options.folder) if options.folder else kit.locate()


def _show(options: argparse.Namespace) -> int:
    from apppot.kit import manifest, show

    folder = _folder(options)
    found = manifest.load(folder)
    text = manifest.render(found) if options.json else show.table(folder, found)
    sys.stdout.write(text)
    return ExitStatus.OK


def _verify(options: argparse.Namespace) -> int:
    from apppot.kit import folders, verify

    folder = _folder(options)
    found = verify.check(folder)
    if options.current and found.recipes != folders.recipes_digest():
        raise KitError(
            f"the kit in {folder} was not made from this AppPot's recipes",
            hint="make a new one with 'apppot kit build'",
        )
    print(f"{folder}: {len(found.files)} files, {found.size / 1e6:.1f} MB, all as they were built")
    print(f"digest: sha256:{found.digest}")
    return ExitStatus.OK


def _path(_options: argparse.Namespace) -> int:
    print(kit.locate())
    return ExitStatus.OK
