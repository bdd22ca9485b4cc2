"""`apppot-start`: run a program as the original's command of that name did."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
import sys
import tempfile
from typing import TYPE_CHECKING

from apppot import __version__, paths
from apppot.agent import terminal
from apppot.errors import AppPotError, ExitStatus, ImageError, UsageError
from apppot.identity import Identity
from apppot.image import changefile, disks, model, reference, store
from apppot.legacy import cow, options
from apppot.machine.model import Share
from apppot.request import RunRequest
from apppot.run import run_for_user

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import ExitStack

    from apppot.legacy.options import StartOptions

USER, HOME, JOB = "user", "/home/user", b"/home/user/job"
SNAP = b"/usr/local/bin/apppot-snap"
THROWAWAY = 16 << 30  # bytes that a run may write if its image is not written to
# What runs if no program is named; the image's home is that of its user.
CHOICE = (
    "if [ -x ./apppot-run ]; then exec ./apppot-run; fi; "
    f'for home in "$HOME" {HOME}; do '
    'if [ -x "$home/apppot-autorun" ]; then exec "$home/apppot-autorun"; fi; done; '
    "if command -v apppot-autorun >/dev/null; then exec apppot-autorun; fi; "
    "if command -v bash >/dev/null; then exec bash -l; fi; exec sh -l"
)


def start(words: Sequence[str]) -> int:
    """Run `apppot-start WORDS` and return its exit status; raises AppPotError."""
    found = options.parse(words, os.environ)
    if found.action == "help":
        print(options.USAGE)
        return ExitStatus.OK
    if found.action == "version":
        print(f"apppot-start (AppPot {__version__})")
        return ExitStatus.OK
    if found.kernel:
        terminal.tell(f"{found.kernel} is not used: AppPot's own kernel is")
    with contextlib.ExitStack() as stack:
        request = _with_image(_request(found), found, stack)
        if found.changes and found.changes not in request.changes:
            request = _with_changes(request, found.changes, stack)
        return run_for_user(request, None)


def _request(found: StartOptions) -> RunRequest:
    extra, refused = options.kernel_words(found.extra)
    for text in refused:
        terminal.tell(f"--extra {text}: left out, since AppPot sets this itself")
    command = found.command or ("/bin/sh", "-c", CHOICE)
    return RunRequest(
        image="",
        command=tuple(map(os.fsencode, command)),
        entrypoint=(),
        memory=options.memory(found.memory),
        job_dir=None,
        binds=(Share(os.path.realpath("."), JOB), Share(_snap_script(), SNAP, read_only=True)),
        workdir=JOB,
        hostname=found.ident if found.ident.isalnum() and found.ident.isascii() else "apppot",
        terminal=os.isatty(0) and os.isatty(1),
        kernel_arguments=extra,
        who=_caller(),
    )


def _caller() -> Identity:
    """Return the caller's numbers under the name that the original gave to every user."""
    if os.getuid() == 0:
        return Identity(0, 0, "root", "/root")
    return Identity(os.getuid(), os.getgid(), USER, HOME)


def _snap_script() -> str:
    return os.path.join(os.path.dirname(os.path.realpath(__file__)), "apppot-snap.sh")


def _with_image(request: RunRequest, found: StartOptions, stack: ExitStack) -> RunRequest:
    """Choose what is booted, and where its changes go."""
    from apppot.lean import replace

    text = found.image or ("apppot.img" if os.path.exists("apppot.img") else "")
    if not text:
        raise UsageError(
            "no image is named", hint="--apppot IMAGE, APPPOT_IMAGE, or a file apppot.img here"
        )
    file, image = options.split_image(text)
    is_disk = os.path.exists(image)
    if is_disk:
        image = os.path.abspath(image)
    request = replace(request, image=image)
    if is_disk and changefile.is_changes(image):
        request = _with_base(request, image)
        is_disk = False
    if found.changes and changefile.is_changes(found.changes):
        request = replace(request, changes=(*request.changes, found.changes))
    if file:
        lock = cow.open_file(os.path.abspath(file), _identity(request), os.path.basename(image))
        stack.callback(os.close, lock)
        return replace(request, scratch_file=os.path.abspath(file), held=(*request.held, lock))
    if is_disk and _is_for_writing(image):
        return replace(request, write=True, held=(*request.held, *_waited_for(image, stack)))
    return replace(request, scratch=THROWAWAY)


def _with_base(request: RunRequest, path: str) -> RunRequest:
    """Run a changes file: on the image that it says it belongs to."""
    from apppot.image import changes
    from apppot.lean import replace

    base = changefile.read(path).base
    image = changes.find_base(base)
    if image is None:
        raise ImageError(
            f"{path} belongs to the image '{base.name}', which is in no store",
            hint=f"get it first: layers {base.chain[:19]}",
        )
    return replace(request, image=image.name, changes=(path,))


def _identity(request: RunRequest) -> str:
    """Return what a COW file is bound to: a disk's superblock, or the contents of an image."""
    if reference.is_path(request.image):
        return disks.find_root(request.image).identity
    image = changefile.stacked(store.resolve(request.image), request.changes)
    return model.chain([layer.content or layer.digest for layer in image.layers])


def _is_for_writing(path: str) -> bool:
    """Tell whether a disk is written to, as the original did with all that could be.

    Root may write to every file: for it, the file's mode decides.
    """
    writable = stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH
    if not os.access(path, os.W_OK) or not os.stat(path).st_mode & writable:
        return False
    return disks.find_root(path).content.type == "ext4"


def _waited_for(path: str, stack: ExitStack) -> tuple[int, ...]:
    """Lock a disk that is to be written; wait for others that use it, until a signal comes.

    Returns nothing if there are no locks: what follows then has a clear message.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    stack.callback(os.close, descriptor)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        terminal.tell(
            f"{path} is in use by another machine: waiting for it."
            " A disk that is read-only (chmod a-w), or a COW file for each machine, lets"
            " several run at the same time"
        )
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError:
        return ()
    return (descriptor,)


def _with_changes(request: RunRequest, path: str, stack: ExitStack) -> RunRequest:
    """Let the guest merge an archive before the program starts."""
    from apppot.agent.preparing import Preparation
    from apppot.lean import replace
    from apppot.legacy import archive

    plain = tempfile.TemporaryFile(dir=paths.scratch_dir())  # noqa: SIM115  the stack closes it
    stack.enter_context(plain)
    merged = archive.convert(path, plain)
    plain.seek(0)
    purpose = f"the archive of changes {path} cannot be merged"
    steps = [Preparation((b"unpack", b"/"), plain.fileno(), purpose)]
    if merged.renames:
        steps.insert(0, Preparation((b"tidy",), _memory(merged.renames, stack), purpose))
    if merged.folders and _can_delete(request.image, merged.made):
        limit = tuple(b"%d" % part for part in merged.limit())
        steps.append(Preparation((b"tidy", *limit), _memory(merged.names, stack), purpose))
    return replace(request, before=tuple(steps))


def _memory(data: bytes, stack: ExitStack) -> int:
    descriptor = os.memfd_create("orders")
    stack.callback(os.close, descriptor)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(data)
    os.lseek(descriptor, 0, os.SEEK_SET)
    return descriptor


def _can_delete(image: str, made: int) -> bool:
    """Tell whether it can be known which files an archive's maker has deleted.

    A disk knows when each file came to it. An image of a store does not: if it is younger than the
    archive, what the archive does not name may be new.
    """
    from datetime import UTC, datetime

    if reference.is_path(image):
        return True
    created = store.resolve(image).config.created
    try:
        moment = datetime.fromisoformat(created)
    except ValueError:
        moment = None
    if moment and moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    if moment and moment.timestamp() <= made + 1:
        return True
    terminal.tell(
        f"the image {image} is younger than the archive of changes: what the archive's maker"
        " deleted cannot be told from what is new, and stays"
    )
    return False


def entry() -> None:
    """Be the installed command, under any name."""
    from apppot.__main__ import fill_closed_streams

    fill_closed_streams()
    try:
        status = start(sys.argv[1:])
        sys.stdout.flush()
    except AppPotError as error:
        print(f"apppot-start: {error}", file=sys.stderr)
        status = error.status or ExitStatus.MACHINE
    except KeyboardInterrupt:
        status = ExitStatus.SIGNAL_BASE + 2
    except BrokenPipeError:
        sys.stdout = None
        status = ExitStatus.SIGNAL_BASE + 13
    sys.exit(int(status))


if __name__ == "__main__":
    entry()
