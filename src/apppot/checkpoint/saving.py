"""Save a running machine: bring it to a standstill, write it to its folder, and let it go on."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import threading
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from apppot import __version__
from apppot.agent import standstill
from apppot.agent.session import State
from apppot.checkpoint.manifest import Blob, Folders, Habits, Hardware, Manifest, SavedImage
from apppot.errors import AppPotError, MachineError
from apppot.image import compressed
from apppot.machine.monitor import Monitor

if TYPE_CHECKING:
    from collections.abc import Callable

    from apppot.agent.session import Command, Session
    from apppot.agent.spec import CommandSpec
    from apppot.checkpoint.folder import Folder
    from apppot.machine.engine import Machine
    from apppot.machine.model import Share

PATIENCE = 60.0  # seconds for the guest to come to a standstill
_TIMER = "standstill"
_PIPE = 1 << 20
_LEVEL = 1  # of zstd: as fast as disks; kernels and tables become a third, noise stays


@dataclass(frozen=True)
class Saved:
    """What a checkpoint took: bytes on disk, and seconds, of which the payload stood still some."""

    folder: str
    size: int
    seconds: float
    stood: float

    def __str__(self) -> str:
        return (
            f"saved in {self.folder}: {self.size / 1e6:.0f} MB in {self.seconds:.1f} s"
            f" (the payload stood still for {self.stood:.1f} s)"
        )


class Saver:
    """Saves one machine into its folder, as often as it is asked to."""

    def __init__(
        self,
        folder: Folder,
        image: SavedImage,
        hardware: Hardware,
        command: CommandSpec,
        habits: Habits,
        staged: tuple[tuple[Share, ...], int] | None = None,
    ) -> None:
        compressed.zstd()  # where it is missing, that has to be said before the payload starts
        self.folder = folder
        self.image = image
        self.habits = habits
        self._hardware = hardware
        self._command = command
        self._monitor: Monitor | None = None
        self._staged = staged
        self._busy = False
        self._began = 0.0
        self._last: Manifest | None = None

    def continues(self, monitor: Monitor, last: Manifest) -> None:
        """Go on with a restored machine, whose monitor is connected already."""
        self._monitor, self._last = monitor, last

    def begin(
        self,
        session: Session,
        machine: Machine,
        payload: Command,
        then: Callable[[Saved | AppPotError], None],
        *,
        stop: bool,
    ) -> None:
        """Save the machine, and tell `then`; it goes on unless it is saved and to `stop`.

        Raises MachineError if it cannot be asked for now.
        """
        if self._busy:
            raise MachineError("the machine is being saved already")
        if not standstill.can_freeze(session):
            raise MachineError(
                "the kit's agent cannot be saved: it is of an older version",
                hint="make a new kit with 'apppot kit build'",
            )
        _check_alone(session, payload)
        self._busy = True
        self._began = time.monotonic()

        def late() -> None:
            session.on_frozen = lambda: self._go_on(session)
            then(MachineError(f"the guest did not come to a standstill within {PATIENCE:.0f} s"))

        def frozen() -> None:
            session.loop.cancel(_TIMER)
            then(self._save(session, machine, payload, stop=stop))

        session.loop.timer(_TIMER, PATIENCE, late)
        standstill.freeze(session, resident(machine.pid, self._hardware.memory), frozen)

    def _go_on(self, session: Session) -> None:
        if self._monitor:
            self._monitor.go_on()
        self._busy = False
        standstill.thaw(session, lambda: None)

    def _save(
        self, session: Session, machine: Machine, payload: Command, *, stop: bool
    ) -> Saved | AppPotError:
        try:
            if payload.state is State.ENDED:
                raise MachineError("the payload has ended meanwhile")
            self._monitor = self._monitor or Monitor(machine.monitor or 0)
            return self._write(self._monitor, session, machine, payload, stop=stop)
        except OSError as error:
            return self._failed(
                session,
                MachineError(
                    f"the machine could not be saved in {self.folder.path}: {error.strerror}",
                    hint="is there room for its memory and its scratch disk?",
                ),
            )
        except AppPotError as error:
            return self._failed(session, error)

    def _failed(self, session: Session, error: AppPotError) -> AppPotError:
        """Let the machine go on as if nothing had been asked for."""
        self.folder.tidy(self._last)
        if session.held is not None:
            with contextlib.suppress(MachineError):  # a machine that died is seen elsewhere
                self._go_on(session)
        return error

    def _write(
        self, monitor: Monitor, session: Session, machine: Machine, payload: Command, *, stop: bool
    ) -> Saved:
        stopped = time.monotonic()
        monitor.stop()
        version, machine_type = monitor.facts()
        with contextlib.ExitStack() as files:
            disk = layer = None
            if machine.scratch is not None:
                disk = self.folder.keep_disk(files, machine.scratch, final=stop)
            if self._staged:
                layer = self.folder.keep_layer(files, self._staged[1])
            target, name = files.enter_context(self.folder.memory())
            _receive(monitor, target)
            conversation = standstill.conversation(session, payload)
            if not stop:
                self._go_on(session)
            stood = time.monotonic() - stopped
            size = os.fstat(target).st_blocks * 512
            size += sum(kept.room for kept in (disk, layer) if kept)
            done = Manifest(
                apppot=__version__,
                host=os.uname().nodename,
                saved=time.time(),
                image=self.image,
                hardware=replace(self._hardware, qemu=version, machine_type=machine_type),
                command=self._command,
                habits=self.habits,
                conversation=conversation,
                memory=Blob(name, os.fstat(target).st_size),
                disk=disk.disk() if disk else None,
                folders=Folders(self._staged[0], layer.disk()) if self._staged and layer else None,
            )
        self.folder.commit(done)
        self._last = done
        return Saved(self.folder.path, size, time.monotonic() - self._began, stood)


def _check_alone(session: Session, payload: Command) -> None:
    """Raise MachineError unless the payload is the only command that runs."""
    running = [each for each in session.commands.values() if each.state is not State.ENDED]
    if payload not in running:
        raise MachineError("the payload does not run (any more)")
    if len(running) > 1:
        raise MachineError(
            f"besides the payload, the machine runs commands of 'apppot exec': {len(running) - 1}",
            hint="their callers could not be given their output later: wait until they have ended",
        )


def resident(pid: int, memory: int) -> int:
    """Return how much of a machine's memory the host holds, 0 if that is not known."""
    try:
        with open(f"/proc/{pid}/smaps", encoding="utf-8", errors="replace") as file:
            text = file.read()
    except OSError:
        return 0
    found = re.search(rf"^Size: *{memory >> 10} kB\n(?:.*\n)*?Rss: *(\d+) kB", text, re.MULTILINE)
    return int(found[1]) << 10 if found else 0


def _receive(monitor: Monitor, target: int) -> None:
    """Write what QEMU says of the machine's state to a file.

    By way of a pipe: versions of QEMU differ in how they take files, and none opens one itself.
    """
    zstd = compressed.zstd()
    kinds = zstd.CompressionParameter
    packer = zstd.ZstdCompressor(options={kinds.compression_level: _LEVEL, kinds.checksum_flag: 1})
    reader, writer = os.pipe2(os.O_CLOEXEC)
    trouble: list[OSError] = []
    thread = threading.Thread(target=_drain, args=(reader, target, packer, trouble))
    thread.start()
    try:
        with contextlib.suppress(OSError):
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, _PIPE)
        monitor.save(writer)
    finally:
        os.close(writer)
        thread.join()
        os.close(reader)
    if trouble:
        raise trouble[0]


def _drain(reader: int, target: int, packer: Any, trouble: list[OSError]) -> None:
    """Pack all that comes from a pipe into a file; if that fails, throw the rest away."""
    try:
        while piece := os.read(reader, _PIPE):
            _write_all(target, packer.compress(piece))
        _write_all(target, packer.flush())
    except OSError as error:
        trouble.append(error)
        while os.read(reader, _PIPE):
            pass


def _write_all(target: int, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(target, left) :]
