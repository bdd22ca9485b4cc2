"""`apppot-snap` on the host: archive what a running machine has changed, or merge an archive there.

The same command is in the guests that apppot-start makes (apppot-snap.sh).
"""

from __future__ import annotations

import contextlib
import gzip
import os
import sys
import tarfile
import tempfile
from dataclasses import dataclass, replace
from typing import IO, TYPE_CHECKING, Any, cast

from apppot import __version__, paths
from apppot.agent import terminal
from apppot.control import run_builtin
from apppot.errors import AppPotError, ExitStatus, ImageError, UsageError
from apppot.image import exclude
from apppot.legacy import archive
from apppot.machine import rundir

if TYPE_CHECKING:
    from collections.abc import Sequence

USAGE = """\
usage: apppot-snap [OPTION...] base
       apppot-snap [OPTION...] changes FILE [ID]
       apppot-snap [OPTION...] merge FILE [ID]

Archive what the running machine ID ('apppot ps'; the only one, if there is no ID) has changed on
its image, or merge such an archive there. The archive is GNU tar's incremental form, compressed by
gzip: 'apppot-start --changes FILE' merges it, as does the original's apppot-snap.

  -v, --verbose   name the files
  -n, --dry-run   do nothing, but name the files
  -V, --version; -h, --help

'apppot commit' and 'apppot changes' do more, and keep deletions apart from what is new."""


@dataclass(frozen=True)
class _Wanted:
    """What is asked for."""

    action: str = ""
    file: str = ""
    ident: str = ""
    verbose: bool = False
    dry_run: bool = False


def snap(words: Sequence[str]) -> int:
    """Run `apppot-snap WORDS` and return its exit status; raises AppPotError."""
    wanted = _parse(words)
    match wanted.action:
        case "help":
            print(USAGE)
        case "version":
            print(f"apppot-snap (AppPot {__version__})")
        case "base":
            terminal.tell("nothing to record: the image is the base")
        case "changes":
            _changes(wanted)
        case _:
            _merge(wanted)
    return ExitStatus.OK


def _parse(words: Sequence[str]) -> _Wanted:
    found, left = _Wanted(), []
    for word in words:
        if word in ("-h", "--help"):
            return replace(found, action="help")
        if word in ("-V", "--version"):
            return replace(found, action="version")
        if word in ("-v", "--verbose"):
            found = replace(found, verbose=True)
        elif word in ("-n", "--dry-run", "--no-act"):
            found = replace(found, dry_run=True)
        elif word.startswith("-"):
            raise UsageError(f"unknown option '{word}'", hint="see 'apppot-snap --help'")
        else:
            left.append(word)
    if left[:1] == ["base"] and len(left) == 1:
        return replace(found, action="base")
    if left[:1] not in (["changes"], ["merge"]) or len(left) not in (2, 3):
        raise UsageError(
            "base, changes FILE [ID] or merge FILE [ID] is needed", hint="see 'apppot-snap --help'"
        )
    return replace(found, action=left[0], file=left[1], ident=left[2] if left[2:] else "")


def _machine(ident: str) -> rundir.Listed:
    if ident:
        return rundir.select(ident)
    running = rundir.machines()
    if len(running) != 1:
        raise UsageError(
            f"{len(running)} machines are running", hint="give the ID of one: see 'apppot ps'"
        )
    return running[0]


def _changes(wanted: _Wanted) -> None:
    machine = _machine(wanted.ident)
    with tempfile.TemporaryFile(dir=paths.scratch_dir()) as plain:
        words = ["archive", "dump", *map(os.fsdecode, exclude.patterns())]
        _builtin(machine, words, target=plain)
        if wanted.verbose or wanted.dry_run:
            _name(plain)
        if not wanted.dry_run:
            _compress(plain, wanted.file)


def _compress(plain: IO[bytes], path: str) -> None:
    """Write a compressed copy aside, and give it its name when it is whole."""
    aside = f"{path}.{os.getpid()}.new"
    try:
        plain.seek(0)
        try:
            with open(aside, "xb") as file:
                with gzip.GzipFile("", "wb", compresslevel=6, fileobj=file, mtime=0) as target:
                    while piece := plain.read(1 << 20):
                        target.write(piece)
                file.flush()
                os.fsync(file.fileno())
            os.rename(aside, path)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(aside)
            raise
    except OSError as error:
        raise ImageError(f"cannot write {path}: {error.strerror}") from error


def _name(plain: IO[bytes]) -> None:
    plain.seek(0)
    with tarfile.open(fileobj=plain, mode="r|", errors="surrogateescape") as entries:
        for entry in entries:
            print(entry.name.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))


def _merge(wanted: _Wanted) -> None:
    with tempfile.TemporaryFile(dir=paths.scratch_dir()) as plain:
        merged = archive.convert(wanted.file, plain)
        if wanted.verbose or wanted.dry_run:
            _name(plain)
        if wanted.dry_run:
            return
        machine = _machine(wanted.ident)
        if merged.renames:
            _builtin(machine, ["tidy"], source=merged.renames)
        plain.seek(0)
        _builtin(machine, ["unpack", "/"], source=plain)
        seconds, rest = merged.limit()
        _builtin(machine, ["tidy", str(seconds), str(rest)], source=merged.names)


def _builtin(
    machine: rundir.Listed,
    words: Sequence[str],
    *,
    source: IO[bytes] | bytes = b"",
    target: IO[bytes] | None = None,
) -> None:
    """Let a machine's agent do something; raises AppPotError."""
    with contextlib.ExitStack() as stack:
        if isinstance(source, bytes):
            given = stack.enter_context(tempfile.TemporaryFile())
            given.write(source)
            given.seek(0)
        else:
            given = cast("Any", source)
        out = target or stack.enter_context(open(os.devnull, "wb"))
        run_builtin(machine.path, words, given.fileno(), out.fileno())


def entry() -> None:
    """Be the installed command."""
    try:
        status = snap(sys.argv[1:])
        sys.stdout.flush()
    except UsageError as error:
        print(f"apppot-snap: {error}", file=sys.stderr)
        status = ExitStatus.USAGE
    except AppPotError as error:
        print(f"apppot-snap: {error}", file=sys.stderr)
        status = ExitStatus.FAILURE
    except KeyboardInterrupt:
        status = ExitStatus.SIGNAL_BASE + 2
    except BrokenPipeError:
        sys.stdout = None
        status = ExitStatus.SIGNAL_BASE + 13
    sys.exit(int(status))


if __name__ == "__main__":
    entry()
