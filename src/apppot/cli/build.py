"""Build an image from a Containerfile, as an ordinary user.

Each RUN is root in a machine of its own, so that packages can be installed as on any computer. DIR
is the build context: COPY and ADD take files from it, without those that .dockerignore names.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    from apppot.cli.options import add_engine_option, add_network_option, add_size_options

    parser.usage = "apppot build [OPTION...] -t NAME[:TAG] DIR"
    add = parser.add_argument
    add("folder", metavar="DIR", help="the build context")
    add(
        "--tag",
        "-t",
        required=True,
        action="append",
        metavar="NAME[:TAG]",
        help="the image's name; an image that has it is replaced. It can be given again",
    )
    add(
        "--file",
        "-f",
        default="",
        metavar="FILE",
        help="the Containerfile (DIR/Containerfile, else DIR/Dockerfile); '-': standard input",
    )
    add(
        "--build-arg",
        type=_argument,
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="the value of an ARG; without one, the caller's variable of that name",
    )
    add("--target", default="", metavar="STAGE", help="build up to this stage (the last one)")
    add("--no-cache", action="store_true", help="do every step, also those done before")
    add("--debug", action="store_true", help="open a shell where a RUN has failed")
    add("--quiet", "-q", action="store_true", help="print the digest only, and output of failures")
    machine = parser.add_argument_group("the machines of RUN")
    add_size_options(
        machine, scratch="the disk for what a step writes (64G); it takes space only as it fills"
    )
    add_network_option(machine)
    add_engine_option(machine)


def main(options: argparse.Namespace) -> int:
    """Build the image, print its name and digest."""
    from apppot.cli.options import memory_from
    from apppot.cli.steps import Steps
    from apppot.image.build.builder import Request, build
    from apppot.image.build.machines import DISK, Machine

    request = Request(
        names=tuple(options.tag),
        folder=options.folder,
        file=options.file,
        arguments=tuple(options.build_arg),
        target=options.target,
        use_cache=not options.no_cache,
        debug=options.debug,
        quiet=options.quiet,
        machine=Machine(
            cpus=options.cpus,
            memory=memory_from(options),
            scratch=DISK if options.scratch is None else options.scratch,
            network=options.network,
            engine=options.engine,
        ),
    )
    built = build(request, Steps(quiet=options.quiet))
    for name in built.names:
        if not options.quiet:
            print(f"{name} {built.digest}")
    if options.quiet:
        print(built.digest)
    return 0


def _argument(text: str) -> tuple[str, str | None]:
    from apppot.errors import UsageError

    name, equals, value = text.partition("=")
    if not name:
        raise UsageError(f"--build-arg {text!r} has no name", hint="--build-arg NAME=VALUE")
    return name, value if equals else None
