"""Probe the programs: the kit's files, its passt, and the Python that runs AppPot."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import sys
import tempfile

from apppot import kit as kits
from apppot.errors import KitError
from apppot.machine.network import start_passt
from apppot.machine.probes.finding import Finding, Outcome

_PATIENCE = 5.0
_GET_FEATURES, _VERSION, _REPLY = 1, 1, 4
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
    """Start the kit's passt as a run does, and ask it for its features."""
    with contextlib.ExitStack() as stack:
        ours, theirs = socket.socketpair()
        stack.enter_context(ours)
        log = stack.enter_context(tempfile.TemporaryFile())
        null = stack.enter_context(open(os.devnull, "r+b"))
        try:
            with theirs:
                pid = start_passt(kits.find(), theirs.fileno(), null.fileno(), log.fileno())
        except KitError as error:
            return Finding("passt", Outcome.FAILS, error.message, _NO_NETWORK, error.hint)
        answers = _answers(ours)
        os.kill(pid, signal.SIGKILL)  # unless it has ended: then its own status is still there
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        log.seek(0)
        said = log.read(65536).decode("utf-8", "replace").strip().splitlines()
    if answers:
        details = {"said": said[-20:]}
        return Finding("passt", Outcome.WORKS, "it answers", _NETWORK, "", details)
    end = "does not answer" if status == -signal.SIGKILL else f"ended with status {status}"
    found = f"it {end}; it said: " + (" / ".join(said[-2:]) or "nothing")
    advice = "use --network none, or report this with the output of 'apppot doctor --json'"
    return Finding("passt", Outcome.FAILS, found, _NO_NETWORK, advice, {"said": said[-20:]})


_NETWORK = "guests can have a network"
_NO_NETWORK = "guests have no network under the engine uml"


def _answers(channel: socket.socket) -> bool:
    """Ask for the features (vhost-user's GET_FEATURES); return whether an answer comes in time."""
    channel.settimeout(_PATIENCE)
    try:
        channel.send(struct.pack("=III", _GET_FEATURES, _VERSION, 0))
        request, flags, size = struct.unpack("=III", channel.recv(12, socket.MSG_WAITALL))
    except (OSError, struct.error):
        return False
    return (request, flags, size) == (_GET_FEATURES, _VERSION | _REPLY, 8)


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
