"""Options that verbs share: what a machine is, what its guest reaches, and its commands."""

from __future__ import annotations

import os
import re

from apppot import config
from apppot.errors import UsageError
from apppot.lean import TYPE_CHECKING
from apppot.machine.limits import parse_duration, parse_size
from apppot.machine.model import EngineName, Network, Share, UmlMode
from apppot.request import RunRequest

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence
    from typing import TypeVar

    from apppot.image.saving import Wanted

    _Kind = TypeVar("_Kind")

_HOSTNAME = r"[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?(\.[A-Za-z0-9-]{1,63})*\Z"
# Kernel parameters that the engine sets itself; a second value would undo what it promises.
_OURS = ("mem", "seccomp", "initrd", "uml_dir", "umid", "con", "ssl", "ubd", "hostfs", "ncpus")
_OURS_PREFIX = ("con", "ssl", "ubd", "hostfs", "apppot.", "virtio_uml.", "initrd", "uml", "seccomp")


def add_machine_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a machine to a verb's parser."""
    machine = parser.add_argument_group("the machine")
    add_size_options(
        machine,
        scratch="keep changes to the image on a disk of SIZE in the scratch folder, not in memory",
    )
    disk = parser.add_argument_group("a raw disk as IMAGE (a path that begins with / or ./)")
    disk.add_argument(
        "--partition",
        type=_partition,
        metavar="N",
        help="the partition with the root (type 'root', else the first with a file system)",
    )
    disk.add_argument("--write", action="store_true", help="write to the disk itself")
    machine.add_argument(
        "--changes",
        action="append",
        default=[],
        metavar="FILE",
        help="put the changes in FILE ('apppot changes save') on the image; several are stacked",
    )
    machine.add_argument("--hostname", type=hostname, default="apppot", help="host name (apppot)")
    machine.add_argument(
        "--kernel-arg",
        type=_kernel_argument,
        action="append",
        default=[],
        metavar="WORD",
        help="one more word for the guest kernel's command line",
    )
    add_engine_option(machine)
    machine.add_argument(
        "--uml-mode",
        type=_one_of(UmlMode),
        choices=list(map(str, UmlMode)),
        help="how User-Mode Linux catches system calls (the best that works here)",
    )
    reach = parser.add_argument_group("what it reaches")
    where = reach.add_mutually_exclusive_group()
    where.add_argument(
        "--job-dir", default=".", metavar="DIR", help="the folder at /job (the current one)"
    )
    where.add_argument(
        "--no-job-dir", dest="job_dir", action="store_const", const=None, help="no folder at /job"
    )
    reach.add_argument(
        "--bind",
        type=_bind,
        action="append",
        default=[],
        metavar="SRC[:DST[:ro]]",
        help="share a folder or file, at the same path unless DST is given",
    )
    add_network_option(reach)
    reach.add_argument(
        "--host-loopback",
        action="store_true",
        help="let the guest reach services on the host's loopback, as host.apppot",
    )
    payload = parser.add_argument_group("the payload")
    add_command_options(payload, user="the caller's", workdir="/job")
    payload.add_argument(
        "--time-limit",
        type=parse_duration,
        metavar="TIME",
        help="send TERM after TIME (90, 1h30m, 00:10:00), and kill after the grace period",
    )
    payload.add_argument(
        "--grace",
        type=parse_duration,
        default=20.0,
        metavar="TIME",
        help="time between the first TERM and the machine's end (20 s)",
    )
    payload.add_argument("--report", metavar="FILE", help="write a JSON report")
    parser.add_argument("--verbose", "-v", action="store_true", help="say what is done, and why")


def add_size_options(group: argparse._ActionsContainer, *, scratch: str) -> None:
    """Add the options of how big a machine is; `scratch` tells what that one does."""
    group.add_argument("--cpus", type=_count, default=1, metavar="N", help="virtual CPUs (1)")
    group.add_argument(
        "--memory",
        metavar="SIZE",
        default=config.text("run.memory"),
        help="memory (1G); 'auto': what the job, cgroup or ulimit allows",
    )
    group.add_argument("--scratch", type=parse_size, metavar="SIZE", help=scratch)


def add_network_option(group: argparse._ActionsContainer) -> None:
    """Add the option that says what a machine reaches of the network."""
    group.add_argument(
        "--network",
        type=_one_of(Network),
        choices=list(map(str, Network)),
        default=Network.USER,
        help="outbound connections, or none at all (user)",
    )


def add_engine_option(group: argparse._ActionsContainer) -> None:
    """Add the option that says who runs the guest's kernel."""
    group.add_argument(
        "--engine",
        type=_one_of(EngineName),
        choices=list(map(str, EngineName)),
        help="who runs the guest's kernel (auto: kvm if it works here, else uml, else tcg)",
    )


def add_save_options(parser: argparse.ArgumentParser) -> None:
    """Add the options that keep what was changed."""
    changes = parser.add_argument_group("changes")
    changes.add_argument(
        "--save", metavar="NAME[:TAG]", help="keep the changes as a new image when it has ended"
    )
    add_keep_options(changes)


def add_keep_options(group: argparse._ActionsContainer) -> None:
    """Add the options of everything that makes an image of changes."""
    group.add_argument(
        "--force",
        dest="replace",
        action="store_true",
        help="the name may be that of an image, which goes",
    )
    add_exclude_options(group)


def add_exclude_options(group: argparse._ActionsContainer) -> None:
    """Add the options that say what is left out of changes."""
    group.add_argument(
        "--exclude",
        action="append",
        default=[],
        metavar="PATTERN",
        help="leave more paths out, such as 'var/cache/*'",
    )
    group.add_argument(
        "--no-default-excludes",
        dest="default_excludes",
        action="store_false",
        help="leave only those out (see 'apppot changes excludes')",
    )


def wanted_from(options: argparse.Namespace, name: str) -> Wanted:
    """Return what is to be kept of the changes."""
    from apppot.image.saving import Wanted

    return Wanted(name, options.replace, tuple(options.exclude), options.default_excludes)


def add_command_options(group: argparse._ActionsContainer, *, user: str, workdir: str) -> None:
    """Add the options of every command in a machine; `user` and `workdir` tell the defaults."""
    group.add_argument(
        "--env",
        "-e",
        type=_setting,
        action="append",
        default=[],
        metavar="NAME[=VALUE]",
        help="set a variable, or pass the caller's value on",
    )
    whom = group.add_mutually_exclusive_group()
    whom.add_argument("--user", "-u", help=f"NAME of the image, UID or UID:GID ({user})")
    whom.add_argument(
        "--root", dest="user", action="store_const", const="root", help="same as --user root"
    )
    group.add_argument("--workdir", "-w", metavar="DIR", help=f"where it starts ({workdir})")


def request_from(
    options: argparse.Namespace, command: Sequence[str], *, terminal: bool
) -> RunRequest:
    """Return the request that the options make."""
    return RunRequest(
        image=options.image,
        command=tuple(map(os.fsencode, command)),
        cpus=options.cpus,
        memory=memory_from(options),
        scratch=options.scratch,
        changes=tuple(options.changes),
        write=options.write,
        partition=options.partition,
        job_dir=options.job_dir,
        binds=tuple(options.bind),
        environment=tuple(options.env),
        network=options.network,
        host_loopback=options.host_loopback,
        user=options.user or "",
        workdir=os.fsencode(options.workdir or ""),
        hostname=options.hostname,
        time_limit=options.time_limit,
        grace=options.grace,
        terminal=terminal,
        verbose=options.verbose,
        engine=options.engine,
        mode=options.uml_mode,
        kernel_arguments=tuple(options.kernel_arg),
    )


def _count(text: str) -> int:
    """Return a number of virtual CPUs; raises UsageError."""
    if not text.isdigit() or not 0 < int(text) <= 64:  # noqa: PLR2004  NR_CPUS of the kit's kernel
        raise UsageError(f"--cpus {text}: a number from 1 to 64 is needed")
    return int(text)


def _partition(text: str) -> int:
    if not text.isdecimal() or not text.isascii() or not 0 < int(text) <= 1024:  # noqa: PLR2004
        raise UsageError(f"--partition {text}: partitions have numbers from 1 on")
    return int(text)


def memory_from(options: argparse.Namespace) -> int | None:
    """Return a machine's memory in bytes, None for what is allowed; raises UsageError."""
    if options.memory == "auto":
        return None
    size = parse_size(options.memory)
    if size < 64 << 20:
        raise UsageError(f"--memory {options.memory}: a machine needs 64M or more")
    return size


def _one_of(kind: Callable[[str], _Kind]) -> Callable[[str], _Kind | str]:
    """Return a reader of words, which leaves to argparse to name the choices for a wrong one."""

    def read(text: str) -> _Kind | str:
        try:
            return kind(text)
        except ValueError:
            return text

    return read


def hostname(text: str) -> str:
    """Return the name of a host; raises UsageError if it can be none."""
    if not re.match(_HOSTNAME, text) or len(text) > 64:  # noqa: PLR2004  sethostname(2)
        raise UsageError(f"--hostname {text!r} is not a host name")
    return text


def _kernel_argument(text: str) -> str:
    if not text.isprintable() or not text.isascii() or not text or " " in text:
        raise UsageError(f"--kernel-arg {text!r} is not a word for a kernel's command line")
    if text.split("=", maxsplit=1)[0] in _OURS or text.startswith(_OURS_PREFIX):
        raise UsageError(
            f"--kernel-arg {text}: AppPot sets this itself", hint="see 'apppot run --help'"
        )
    return text


def words(text: str) -> tuple[str, ...]:
    """Return the words of a JSON list, or of what a shell would take apart; raises UsageError."""
    import json
    import shlex

    try:
        found = json.loads(text) if text.startswith("[") else shlex.split(text)
    except ValueError as error:
        raise UsageError(f"'{text}' makes no sense: {error}") from error
    if not all(isinstance(word, str) and "\0" not in word for word in found):
        raise UsageError(f"'{text}' is not a list of texts")
    return tuple(found)


def _setting(text: str) -> bytes:
    name, equals, value = os.fsencode(text).partition(b"=")
    if not name or b"\0" in value:
        raise UsageError(f"--env {text!r} has no name")
    if equals:
        return name + b"=" + value
    if name not in os.environb:
        raise UsageError(
            f"--env {text}: there is no such variable here", hint=f"give a value: --env {text}=..."
        )
    return name + b"=" + os.environb[name]


def _bind(text: str) -> Share:
    source, *rest = text.split(":")
    mode = rest.pop() if rest and rest[-1] in ("ro", "rw") else "rw"
    if len(rest) > 1 or not source:
        raise UsageError(
            f"--bind {text}: not of the form SRC[:DST[:ro]]",
            hint="names with a colon cannot be shared by --bind; share the folder above",
        )
    try:
        real = os.path.realpath(source, strict=True)
    except OSError as error:
        raise UsageError(f"--bind {text}: {source}: {error.strerror}") from error
    target = rest[0] if rest and rest[0] else os.path.abspath(source)
    if not target.startswith("/"):
        raise UsageError(f"--bind {text}: the guest's path must begin with a slash")
    return Share(real, os.fsencode(target), mode == "ro")
