"""Machines that work for AppPot itself: the guest reads file systems, so that the host need not.

Each is booted for one task of the agent's own, and has no network, no shared folder and no program
of the image. docs/reference/protocol.md describes the tasks.
"""

from __future__ import annotations

import os
import tempfile
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

from apppot.agent.serving import Order, Serving
from apppot.capturing import Capture
from apppot.errors import MachineError
from apppot.image.model import Image, ImageConfig
from apppot.machine.choice import choose
from apppot.machine.model import Network
from apppot.request import RunRequest
from apppot.run import run

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from apppot.agent.session import Session
    from apppot.image.model import Layer
    from apppot.machine.choice import Choice

MEMORY = 512 << 20


def archive(
    layers: Sequence[Layer], words: Sequence[str], target: int, *, source: int | None = None
) -> None:
    """Write a tar archive to the descriptor `target`; raises MachineError.

    The words are those of the agent's `archive`: ("layer", "0"), ("tree", "--root", "/", "."), or
    ("files",), whose paths come from the descriptor `source`.
    """
    _run(layers, b"archive", words, source=source, target=target)


def unpack(
    layers: Sequence[Layer],
    source: int,
    folder: str,
    *,
    owner: str = "",
    file: bool = False,
    target: int,
    scratch: int | None = None,
) -> None:
    """Unpack the tar archive of the descriptor `source` on top of layers; raises MachineError.

    `target` gets the archive of what this has changed. `owner` is a user and group of the image.
    With `file`, the one entry becomes `folder` itself, unless that is a folder already.
    With `scratch`, changes are kept on a disk of so many bytes instead of in memory.
    """
    words = [folder, *(("--file",) if file else ()), *(("--chown", owner) if owner else ())]
    _run(layers, b"unpack", words, source=source, capture=target, scratch=scratch)


class Archivist:
    """A machine that archives layers of one stack when asked; it starts with the first.

    Its loop has a thread of its own, so that the caller's can work on each archive.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self._layers = tuple(layers)
        self._asked: tuple[Order, Future[str]] | None = None
        self._lock = threading.Lock()
        self._over: Exception | None = None
        self._thread: threading.Thread | None = None
        self._bell = self._hears = -1
        self._choice: Choice | None = None

    def layer(self, number: int, target: int) -> None:
        """Write what a layer adds to those below to the descriptor `target`.

        Raises AppPotError.
        """
        if self._over:
            raise self._over
        if self._thread is None:
            self._choice = choose()  # it may fork: before there is a thread
            self._hears, self._bell = os.pipe2(os.O_CLOEXEC)
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()
        done: Future[str] = Future()
        words = (b"archive", b"layer", str(number).encode())
        with self._lock:
            if self._over:
                raise self._over
            self._asked = Order(words, target, done.set_result), done
        os.write(self._bell, b"!")
        try:
            said = done.result()
        except BaseException:
            self.close()  # before the caller closes the target
            raise
        if said:
            raise MachineError(f"the agent's 'archive' failed: {said}")

    def close(self) -> None:
        """End the machine."""
        if self._thread:
            os.close(self._bell)
            self._thread.join()
            os.close(self._hears)
            self._thread = None

    def _work(self) -> None:
        failure: Exception = MachineError("the machine that archives layers has ended")
        try:
            words, own = ("files",), self._serving
            _run(self._layers, b"archive", words, serving=own, choice=self._choice)
        except Exception as error:  # noqa: BLE001  told to who waits
            failure = error
        with self._lock:
            self._over = failure
            if self._asked and not self._asked[1].done():
                self._asked[1].set_exception(failure)

    def _serving(self, session: Session) -> Serving:
        return Serving(session, self._hears, self._order)

    def _order(self) -> Order:
        assert self._asked
        return self._asked[0]


def _run(
    layers: Sequence[Layer],
    builtin: bytes,
    words: Sequence[str],
    *,
    source: int | None = None,
    target: int | None = None,
    capture: int | None = None,
    scratch: int | None = None,
    serving: Callable[[Session], Serving] | None = None,
    choice: Choice | None = None,
) -> None:
    name = os.fsdecode(builtin)
    image = Image(f"({name})", "", tuple(layers), ImageConfig())
    with (
        open(os.devnull, "r+b", buffering=0) as nothing,
        tempfile.TemporaryFile() as reasons,
    ):
        null = nothing.fileno()
        request = RunRequest(
            image=image.name,
            command=tuple(map(os.fsencode, words)),
            memory=MEMORY,
            scratch=scratch,
            job_dir=None,
            network=Network.NONE,
            user="root",
            workdir=b"/",
            stdio=(
                null if source is None else source,
                null if target is None else target,
                reasons.fileno(),
            ),
            builtin=builtin,
            capture=None if capture is None else Capture(capture),
            serving=serving,
            engine=choice.name if choice else None,
            mode=choice.mode if choice else None,
        )
        outcome = run(request, image).outcome
        reasons.seek(0)
        said = reasons.read().decode("utf-8", "replace").strip()
    if outcome.message:
        raise MachineError(outcome.message, hint=outcome.hint)
    if outcome.status:
        raise MachineError(f"the agent's '{name}' failed: {said or outcome.status}")
