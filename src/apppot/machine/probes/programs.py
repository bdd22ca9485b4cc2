"""Probe the programs: the kit's files, its passt, and the Python that runs AppPot."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
import time

from apppot import kit as kits
from apppot import paths, process
from apppot.errors import AppPotError, KitError
from apppot.machine.probes.finding import Finding, Outcome

_PATIENCE = 5.0
_OLDEST_PYTHON = (3, 11)


def kit() -> Finding:
    """Find the kit and compare every file with its manifest."""
    try:
        path = kits.locate()
        from apppot.kit import verify

        manifest = verify.check(path)
    except KitError as error:
        meaning = "no machine can be started without a kit"
        return Finding("kit", Outcome.FAILS, error.message, meaning, error.hint)
    versions = {name: one.version for name, one in manifest.components.items()}
    found = f"{path}: {len(manifest.files)} files, all with the right digests"
    details = {"path": path, "components": versions}
    return Finding("kit", Outcome.WORKS, found, "machines can be started from it", "", details)


def passt() -> Finding:
    """Start the kit's passt for vhost-user, and connect to it."""
    try:
        program = kits.find().file("bin/passt")
    except KitError as error:
        return Finding("passt", Outcome.FAILS, error.message, _NO_NETWORK, error.hint)
    parent = None
    with contextlib.suppress(AppPotError):
        parent = paths.runtime_dir()
    with contextlib.ExitStack() as stack:
        folder = tempfile.mkdtemp(prefix="probe-", dir=parent)
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        log = stack.enter_context(open(os.path.join(folder, "log"), "w+b"))
        null = stack.enter_context(open(os.devnull, "rb"))
        path = os.path.join(folder, "socket")
        argv = [program, "--vhost-user", "--foreground", "--socket", path]
        pid = process.spawn(argv, descriptors={0: null.fileno(), 1: log.fileno(), 2: log.fileno()})
        accepted, status = _connect(path, pid)
        log.seek(0)
        said = log.read(65536).decode("utf-8", "replace").strip().splitlines()
    if accepted:
        found = "it runs and accepts connections"
        details = {"said": said[-20:]}
        return Finding("passt", Outcome.WORKS, found, "guests can have a network", "", details)
    end = "does not accept connections" if status is None else f"ended with status {status}"
    found = f"it {end}; it said: " + (" / ".join(said[-2:]) or "nothing")
    advice = "use --network none, or report this with the output of 'apppot doctor --json'"
    return Finding("passt", Outcome.FAILS, found, _NO_NETWORK, advice, {"said": said[-20:]})


_NO_NETWORK = "guests have no network under the engine uml"


def _connect(path: str, pid: int) -> tuple[bool, int | None]:
    """Connect to passt within some seconds, end it and reap it; return its own end, if any."""
    status: int | None = None
    accepted = False
    end = time.monotonic() + _PATIENCE
    while not accepted and status is None and time.monotonic() < end:
        with socket.socket(socket.AF_UNIX) as client:
            try:
                client.connect(path)
                accepted = True
            except OSError:
                time.sleep(0.005)
        found, code = os.waitpid(pid, os.WNOHANG)
        if found:
            status = os.waitstatus_to_exitcode(code)
    if status is None:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    return accepted, status


def python() -> Finding:
    """See which Python this is."""
    version = ".".join(map(str, sys.version_info[:3]))
    found = f"{version} in {sys.executable}"
    details = {"version": version, "executable": sys.executable}
    if sys.version_info >= _OLDEST_PYTHON:
        return Finding("python", Outcome.WORKS, found, "AppPot runs with it", "", details)
    return Finding(
        "python", Outcome.FAILS, found, "AppPot needs 3.11", "install a newer Python", details
    )
