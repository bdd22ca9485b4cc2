"""Make an image of a root file system.

FILE is a tar archive of any compression, a squashfs or EROFS file system, or a SIF file of
Apptainer; or a folder, of which owners, devices and attributes are taken as they are.
"""
# ruff: noqa: N999  it is a keyword, and the verb all the same

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add("source", metavar="FILE", help="an archive, a folder, a squashfs or a SIF; '-': stdin")
    add("name", metavar="NAME[:TAG]", help="the new image's name")
    add("--entrypoint", default="", metavar="WORDS", help="what is run, as words or a JSON list")
    add("--cmd", default="", metavar="WORDS", help="the command, or its usual arguments")
    add("--env", action="append", default=[], metavar="NAME=VALUE", help="may be repeated")
    add("--workdir", default="", metavar="PATH", help="the folder to start in")
    add("--user", default="", metavar="USER[:GROUP]", help="the user to run as")
    add("--force", action="store_true", help="replace an image of that name")


def main(options: argparse.Namespace) -> int:
    """Import, print the image's name and digest."""
    from apppot.cli.options import words
    from apppot.cli.progress import Progress
    from apppot.errors import UsageError
    from apppot.image.importing import Settings, import_

    for each in options.env:
        if "=" not in each[1:]:
            raise UsageError(f"--env {each} has no value", hint="say --env NAME=VALUE")
    settings = Settings(
        entrypoint=words(options.entrypoint),
        cmd=words(options.cmd),
        env=tuple(options.env),
        working_dir=options.workdir,
        user=options.user,
    )
    with Progress() as progress:
        made = import_(
            options.source, options.name, settings, replace=options.force, step=progress.step
        )
    print(f"{made.name} {made.digest}")
    return 0
