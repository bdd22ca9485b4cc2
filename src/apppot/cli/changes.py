"""Save what was changed as a file, look into such files, and turn them into images.

A changes file holds one compressed layer and the name of its base; 'apppot run --changes FILE'
uses it in place.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from apppot.cli.options import add_exclude_options

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

COMPRESS_HELP = (
    "zstd makes the file a tenth bigger, and reading it for the first time several times"
    " quicker; lzma makes it a tenth smaller; docs/reference/changes-file.md has numbers (mixed)"
)
LEVEL_HELP = "compress more or faster (1): lzma up to 9 (6), the others up to 22 (11)"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    save = actions.add_parser(
        "save", help="write the changes of an image, or of a running machine, to a file"
    )
    save.add_argument("file", metavar="FILE", help="the file to write; one that is there goes")
    save.add_argument(
        "subject",
        metavar="IMAGE|ID",
        nargs="?",
        help="an image made by 'run --save', 'commit' or 'build', or a running machine; without"
        " it, the only running machine",
    )
    save.add_argument("--base", metavar="IMAGE", help="what the image was made from, if unknown")
    save.add_argument(
        "--compress", choices=("mixed", "zstd", "lzma"), default="", help=COMPRESS_HELP
    )
    save.add_argument("--level", type=int, metavar="N", default=0, help=LEVEL_HELP)
    add_exclude_options(save)
    show = actions.add_parser("show", help="list what was added, changed and deleted")
    show.add_argument("file", metavar="FILE", help="a changes file, or an image with changes")
    show.add_argument("--base", metavar="IMAGE", help="the base, if it is not found by itself")
    how = show.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="print JSON, with sizes in bytes")
    how.add_argument("--summary", action="store_true", help="print the totals only")
    apply = actions.add_parser("apply", help="make an image of a base and a changes file")
    apply.add_argument("file", metavar="FILE", help="the changes file")
    apply.add_argument("base", metavar="BASE", help="the image that the changes belong to")
    apply.add_argument("name", metavar="NEW[:TAG]", help="the new image")
    apply.add_argument("--force", action="store_true", help="the name may be taken")
    excludes = actions.add_parser("excludes", help="list what is left out of changes")
    add_exclude_options(excludes)


def main(options: argparse.Namespace) -> int:
    """Do what was asked for."""
    act: Callable[[argparse.Namespace], int] = globals()[f"_{options.action}"]
    return act(options)


def _save(options: argparse.Namespace) -> int:
    from apppot.agent import terminal
    from apppot.image import changes, saving_changes
    from apppot.image.sizes import human

    patterns = changes.patterns_for(options.exclude, defaults=options.default_excludes)
    saved = saving_changes.save(
        options.file,
        options.subject or "",
        patterns,
        base=options.base or "",
        method=options.compress,
        level=options.level,
    )
    made = saved.made
    terminal.tell(f"{made.path}: {human(made.size)}, {made.entries} files and folders")
    if saved.lowest:
        terminal.tell(
            f"its base {saved.base} is itself changes on top of {saved.lowest};"
            f" '--base {saved.lowest}' takes them all"
        )
    return 0


def _show(options: argparse.Namespace) -> int:
    import json

    from apppot.image import saving_changes, showing

    subject, about = saving_changes.shown(options.file, options.base or "")
    found = showing.show(subject)
    if options.json:
        about["changes"] = [change.json() for change in found]
        print(json.dumps(about, indent=2))
        return 0
    if not options.summary:
        print(showing.lines(found), end="")
    print(showing.summary(found, subject.base))
    return 0


def _apply(options: argparse.Namespace) -> int:
    from apppot.agent import terminal
    from apppot.image import changes

    digest = changes.apply(options.file, options.base, options.name, replace=options.force)
    terminal.tell(f"made {options.name} ({digest[:19]})")
    return 0


def _excludes(options: argparse.Namespace) -> int:
    from apppot.image import exclude

    for pattern in exclude.patterns(options.exclude, defaults=options.default_excludes):
        print(pattern)
    return 0
