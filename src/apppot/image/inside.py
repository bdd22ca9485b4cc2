"""Run mmdebstrap as root in a machine of our own: bootstrap mode `machine`.

It starts from an image of Debian or Ubuntu that a store has, else from one that is made for it.
"""

from __future__ import annotations

import os
import re
import shutil
import threading
from contextlib import ExitStack, contextmanager
from typing import IO, TYPE_CHECKING

from apppot import process
from apppot.errors import AppPotError, ImageError, MachineError
from apppot.image import mmdebstrap
from apppot.image.store import stores

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from apppot.image.mmdebstrap import Plan
    from apppot.image.store import Entry, Store
    from apppot.machine.model import Share

BASE = "apppot/bootstrap"  # images that are made for this; the tag is the suite
BASE_PACKAGES = ("ca-certificates", "mmdebstrap")
MEMORY = 1 << 30
DISK = 8 << 30
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
OS_RELEASE = "/etc/os-release"
INTERRUPTED = 130
# The machine is thrown away, so mmdebstrap need not clean up. `wait` lets the trap act at once.
SCRIPT = """\
trap 'exit 130' INT TERM HUP
{
    command -v mmdebstrap >/dev/null || {
        echo "I: installing mmdebstrap into the machine..." >&2
        apt-get -q update &&
        apt-get -q --yes --no-install-recommends install mmdebstrap
    } >&2 || exit 125
    exec "$@"
} &
wait $!
"""


def host_release(path: str = OS_RELEASE) -> tuple[str, str]:
    """Return the host's distribution and suite, such as ('debian', 'bookworm'); '' if unknown."""
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            text = file.read()
    except OSError:
        return "", ""
    fields = dict(re.findall(r'^([A-Z_]+)="?([^"\n]*)"?$', text, re.MULTILINE))
    return fields.get("ID", ""), fields.get("VERSION_CODENAME", "")


def problem(distributions: tuple[str, ...]) -> str:
    """Return why no system can be installed in a machine here, or ''."""
    from apppot import kit
    from apppot.machine import probes

    try:
        kit.find()
        known = probes.uml_mode()
        if known.mode is probes.Mode.NONE:
            return f"User-Mode Linux does not boot here: {known.reason}"
        if find_base():
            return ""
    except AppPotError as error:
        return error.message
    distribution, suite = host_release()
    if distribution not in distributions or not suite:
        return "no store has an image of Debian or Ubuntu to start from"
    for program in ("mmdebstrap", "fakechroot", "fakeroot"):
        if not (shutil.which(program) or shutil.which(program, path=process.CLEAN_PATH)):
            return (
                "no store has an image of Debian or Ubuntu to start from, and the program"
                f" '{program}', to make one with, is not installed"
            )
    return ""


def find_base() -> str:
    """Return the digest of the best image to run mmdebstrap in, or ''.

    First come those that have it; then those like the host, so that it is the same version.
    """
    found: list[tuple[int, str]] = []
    for store in stores():
        try:
            for entry in store.entries():
                rank = _rank(store, entry)
                if rank is not None:
                    found.append((rank, entry.manifest.digest))
        except ImageError:
            continue  # a damaged store is told of where it matters
    return min(found, key=lambda pair: pair[0])[1] if found else ""


def _rank(store: Store, entry: Entry) -> int | None:
    """Return how well an image can be started from, the least the best; None if it cannot."""
    name, _, tag = entry.reference.rpartition(":")
    _, suite = host_release()
    try:
        annotations = store.manifest(entry).get("annotations")
        store.image(entry)
    except ImageError:
        return None
    source = annotations.get("vnd.apppot.source", "") if isinstance(annotations, dict) else ""
    if name == BASE:
        return 0 if tag == suite else 1
    made = str(source).partition(":")
    if made[0] in ("debian", "ubuntu"):
        return 2 if made[2] == suite else 3
    return 4 if name.rpartition("/")[2] in ("debian", "ubuntu") else None


def run(
    plan: Plan,
    base: str,
    *,
    epoch: int,
    archive: IO[bytes],
    log: str,
    step: Callable[[str], None],
) -> None:
    """Write the system's tar archive to the file `archive`; raises AppPotError.

    The machine's image is `base`; otherwise it is like `mmdebstrap.run`.
    """
    from apppot.machine import probes
    from apppot.machine.model import UmlMode
    from apppot.outcome import Source
    from apppot.request import RunRequest
    from apppot.run import run as run_machine

    argv = mmdebstrap.arguments(plan)
    mode = UmlMode(probes.uml_mode().mode)  # it may fork: before there is a thread
    os.makedirs(os.path.dirname(log), exist_ok=True)
    with ExitStack() as stack:
        record = stack.enter_context(open(log, "wb", buffering=0))
        record.write(f"$ {process.command_line(argv)}\n".encode())
        null = stack.enter_context(open(os.devnull, "rb"))
        output = stack.enter_context(_followed(record, step))
        request = RunRequest(
            image=base,
            command=tuple(map(os.fsencode, ("/bin/sh", "-c", SCRIPT, "sh", *argv))),
            entrypoint=(),
            memory=MEMORY,
            scratch=DISK,
            job_dir=None,
            binds=shares(plan),
            environment=environment(epoch),
            user="root",
            workdir=b"/",
            hostname="bootstrap",
            mode=mode,
            stdio=(null.fileno(), archive.fileno(), output),
        )
        outcome = run_machine(request).outcome
    if outcome.status == INTERRUPTED or outcome.source is Source.FORCED:
        raise KeyboardInterrupt
    if outcome.message:
        raise MachineError(f"{outcome.message}; the log is {log}", hint=outcome.hint)
    if outcome.status:
        raise mmdebstrap.failure(outcome.status, log)


def environment(epoch: int) -> tuple[bytes, ...]:
    """Return mmdebstrap's environment in the machine; nothing of this host but its proxies."""
    values = mmdebstrap.environment(epoch, "/var/tmp")  # noqa: S108  the guest's: its disk
    values["PATH"] = process.CLEAN_PATH
    values["HOME"] = "/root"
    return tuple(os.fsencode(f"{name}={value}") for name, value in values.items())


def shares(plan: Plan) -> tuple[Share, ...]:
    """Return what mmdebstrap reads of the host, at the same paths: keys, and mirrors in folders."""
    from apppot.machine.model import Share

    wanted = [plan.keyring, CERTIFICATES]
    for line in plan.sources:
        wanted += re.findall(r"signed-by=([^\]\s]+)", line)
        wanted += [f"/{path}" for path in re.findall(r"\s(?:file|copy):/+([^\s]+)", line)]
    return tuple(
        Share(os.path.realpath(path), os.fsencode(path), read_only=True)
        for path in dict.fromkeys(wanted)
        if path and os.path.exists(path)
    )


@contextmanager
def _followed(record: IO[bytes], step: Callable[[str], None]) -> Iterator[int]:
    """Give a descriptor; what is written to it goes to the log, and mmdebstrap's steps to `step`.

    A thread reads it, since the machine's loop has this one. Signals are not for it.
    """
    reader, end = os.pipe2(os.O_CLOEXEC)

    def follow() -> None:
        with open(reader, "rb") as lines:
            mmdebstrap.follow(lines, record, step)

    thread = threading.Thread(target=follow, name="log")
    with process.signals_held():
        thread.start()
    try:
        yield end
    finally:
        os.close(end)
        thread.join()
