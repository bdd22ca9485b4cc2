"""Make an image from a distribution's packages, as an ordinary user.

The image is a Debian or Ubuntu system with what minbase has, and ca-certificates, iproute2,
netbase, procps and sudo (see --bare). It is made with mmdebstrap, from the mirror that is named
with --mirror or APPPOT_MIRROR, else from the one that this computer's apt uses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse

VARIANTS = ("minbase", "apt", "essential", "buildd", "important", "standard")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    add = parser.add_argument
    add("source", metavar="DISTRIBUTION:SUITE", help="such as debian:bookworm")
    add(
        "--name",
        default="",
        metavar="NAME[:TAG]",
        help="the image's name (default: DISTRIBUTION:SUITE)",
    )
    add(
        "--include",
        action="append",
        default=[],
        metavar="PACKAGE,...",
        help="packages to install as well; may be repeated",
    )
    add("--bare", action="store_true", help="only what the variant has, without sudo and so on")
    add(
        "--variant",
        default="minbase",
        choices=VARIANTS,
        help="mmdebstrap's package set (default: minbase)",
    )
    add(
        "--components",
        default="",
        metavar="NAME,...",
        help="of the archive (default: main; for Ubuntu main,universe)",
    )
    add("--mirror", default="", metavar="URL", help="address of the main archive")
    add("--keyring", default="", metavar="FILE", help="the keys that the packages are signed with")
    add("--allow-expired", action="store_true", help="accept Release files that are out of date")
    add(
        "--mode",
        default="",
        choices=("root", "unshare", "fakechroot", "machine"),
        help="how to do without root (default: the first that works)",
    )
    add(
        "--compress",
        default="none",
        choices=("none", "lz4hc", "zstd"),
        help="the layer's compression (default: none, the fastest to run)",
    )
    add("--force", action="store_true", help="replace an image of that name")


def main(options: argparse.Namespace) -> int:
    """Make the image, print its name and digest."""
    from apppot.cli.progress import Progress
    from apppot.image.bootstrap import Request, bootstrap
    from apppot.image.erofs import Compression

    request = Request(
        source=options.source,
        name=options.name,
        include=_words(",".join(options.include)),
        variant=options.variant,
        bare=options.bare,
        components=_words(options.components),
        mirror=options.mirror,
        keyring=options.keyring,
        mode=options.mode,
        compression=Compression(options.compress),
        allow_expired=options.allow_expired,
        replace=options.force,
    )
    with Progress() as progress:
        made = bootstrap(request, progress.step)
        for note in made.notes:
            progress.note(note)
    print(f"{made.name} {made.digest}")
    return 0


def _words(text: str) -> tuple[str, ...]:
    """Return the words of a list with commas."""
    return tuple(word for word in text.replace(",", " ").split() if word)
