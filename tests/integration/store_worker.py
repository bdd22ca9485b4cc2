"""Work on a store without end, as one of several, and write down what is done: to be killed."""

from __future__ import annotations

import errno
import fcntl
import gzip
import io
import json
import os
import random
import signal
import tarfile
import traceback
from typing import TYPE_CHECKING, NoReturn

from apppot.image import arrival, cleaning, erofs, listing, model
from apppot.image.registry import partial
from apppot.image.store import Store, find

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = 4
CONFIG = {"architecture": "amd64", "config": {"Cmd": ["/bin/sh"]}}
UNKNOWN, GONE = "?", "-"


def no_lock(*_: object) -> None:
    """Be the flock of a file system that has no locks."""
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


def start(store: str, number: int, log: str, *, seed: int, leases: bool) -> int:
    """Start a worker in a process group of its own; return its process id."""
    child = os.fork()
    if child:
        os.setpgid(child, child)
        return child
    try:
        for handled in (signal.SIGTERM, signal.SIGINT):
            signal.signal(handled, signal.SIG_DFL)
        if leases:
            fcntl.flock = no_lock
        random.seed(seed)
        Worker(Store(store), number, log, random.Random(seed)).work()
    except BaseException:  # noqa: BLE001  the test shows it
        with open(log + ".failed", "a", encoding="utf-8") as file:
            traceback.print_exc(file=file)
    finally:
        os._exit(1)


def state(log: str) -> dict[str, str]:
    """Return each name's digest as its worker wrote it down last: also UNKNOWN or GONE."""
    found: dict[str, str] = {}
    with open(log, encoding="utf-8") as file:
        for line in file:
            name, _, digest = line.rstrip("\n").partition(" ")
            found[name] = digest
    return found


def archive(dice: random.Random) -> io.BytesIO:
    """Return one of a few small tar archives, so that workers share layers."""
    which = dice.randrange(6)
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for number in range(which + 1):
            entry = tarfile.TarInfo(f"file{number}")
            entry.size = 20_000 * which
            tar.addfile(entry, io.BytesIO(bytes([number]) * entry.size))
    made.seek(0)
    return made


class Worker:
    """One process's work; its names are its own, layers are everybody's."""

    def __init__(self, store: Store, number: int, log: str, dice: random.Random) -> None:
        self.store = store
        self.names = [f"worker{number}:{index}" for index in range(NAMES)]
        self.log = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        self.known = state(log)
        self.dice = dice

    def note(self, name: str, what: str) -> None:
        os.write(self.log, f"{name} {what}\n".encode())
        self.known[name] = what

    def work(self) -> NoReturn:
        steps: list[Callable[[], None]] = [
            self.make, self.arrive, self.save, self.tag, self.remove, self.collect, self.step,
        ]  # fmt: skip
        while True:
            self.dice.choice(steps)()

    def finished(self) -> list[str]:
        return [name for name in self.names if self.known.get(name, GONE) not in (GONE, UNKNOWN)]

    def make(self) -> None:
        """Make an image of one or two new layers, over whatever had its name."""
        name = self.dice.choice(self.names)
        self.note(name, UNKNOWN)
        with self.store.writer() as adding:
            count = self.dice.choice((1, 2))
            layers = [erofs.layer(adding, archive(self.dice)) for _ in range(count)]
            digest = adding.image(name, layers, CONFIG, replace=True)
        self.note(name, digest)

    def arrive(self) -> None:
        """Let an image of another program arrive, as `pull` and `load` do."""
        name = self.dice.choice(self.names)
        packed = gzip.compress(archive(self.dice).getvalue())
        self.note(name, UNKNOWN)
        with self.store.writer() as adding:
            with partial.place(self.store, model.digest(packed)) as file:
                file.write(packed)
                pieces = (packed[at : at + 999] for at in range(0, len(packed), 999))
                layers = [arrival.layer(adding, pieces, len(packed))]
            layers += list(arrival.known(self.store).values())[:1]
            digest = arrival.add_image(adding, name, layers, json.dumps(CONFIG).encode(), {})
        self.note(name, digest)

    def save(self) -> None:
        """Make an image of one that is there and one more layer."""
        for base in self.finished()[:1]:
            name = self.names[-1]
            store, entry = find(base)
            self.note(name, UNKNOWN)
            with self.store.writer() as adding:
                values = store.manifest(entry)["layers"][:3]
                layers = [model.descriptor(value, "it") for value in values]
                layers.append(erofs.layer(adding, archive(self.dice)))
                digest = adding.image(name, layers, CONFIG, replace=True)
            self.note(name, digest)

    def tag(self) -> None:
        for name in self.finished()[:1]:
            new = self.dice.choice(self.names[1:])
            if new != name:
                self.note(new, UNKNOWN)
                self.note(new, listing.tag(name, new, replace=True))

    def remove(self) -> None:
        for name in self.finished()[-1:]:
            self.note(name, UNKNOWN)
            listing.remove([name])
            self.note(name, GONE)

    def step(self) -> None:
        """Keep a step of a build."""
        for name in self.finished()[:1]:
            _, entry = find(name)
            with self.store.writer() as adding:
                adding.tag("", entry.manifest, annotations={model.CACHE: f"{name}"})

    def collect(self) -> None:
        cleaning.gc(self.store, days=self.dice.choice((0, 1)))
