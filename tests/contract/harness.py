"""Run the real command line from tests, and look for what a run has left behind."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from typing import IO, TYPE_CHECKING, Any, TypeVar

from tests.processes import children, command_of, descendants

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

Word = str | bytes
T = TypeVar("T")

# An upper limit for one machine on a busy host; a run that hangs fails its test by it.
# Where instructions are translated, and others translate beside it, a start alone takes a while.
PATIENCE = 180.0 if "tcg" in os.environ.get("APPPOT_TEST_ENGINES", "") else 60.0


@dataclass(frozen=True)
class Engine:
    """An engine, and what the guest calls its devices."""

    name: str

    @property
    def options(self) -> tuple[str, ...]:
        """The options of `apppot run` that name it."""
        return ("--engine", self.name)

    @property
    def disk(self) -> str:
        """The guest's first layer."""
        return "/dev/ubda" if self.name == "uml" else "/dev/vda"

    @property
    def channel(self) -> str:
        """The agent's channel."""
        return "/dev/hostpipe" if self.name == "uml" else "/dev/vport0p1"


@dataclass(frozen=True)
class Ended:
    """What a finished `apppot` left."""

    status: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        return self.stdout.decode()

    @property
    def complaint(self) -> str:
        return self.stderr.decode()


@dataclass(frozen=True)
class AppPot:
    """The command line under test, with folders of its own for everything that it writes."""

    engine: Engine
    image: str
    folder: str
    environment: dict[str, str] = field(default_factory=dict)
    cwd: str = ""
    others: tuple[int, ...] = ()  # processes of machines that tests share

    @property
    def job(self) -> str:
        return self.cwd or os.path.join(self.folder, "job")

    @property
    def scratch(self) -> str:
        return os.path.join(self.folder, "scratch")

    @property
    def runtime(self) -> str:
        return os.path.join(self.folder, "runtime")

    def path(self, *parts: str) -> str:
        """Return a path in the job folder."""
        return os.path.join(self.job, *parts)

    def having(self, cwd: str = "", **variables: str) -> AppPot:
        """Return the same with another current folder or more variables."""
        return replace(self, cwd=cwd or self.cwd, environment={**self.environment, **variables})

    def verb(self, *words: Word) -> list[Word]:
        return [sys.executable, "-m", "apppot", *words]

    def line(self, command: Sequence[Word], options: Sequence[Word] = ()) -> list[Word]:
        """Return the words of `apppot run`."""
        return self.verb("run", *self.engine.options, *options, self.image, "--", *command)

    def call(
        self,
        argv: Sequence[Word],
        *,
        stdin: bytes | int | IO[bytes] = b"",
        stdout: int | IO[bytes] = subprocess.PIPE,
        stderr: int | IO[bytes] = subprocess.PIPE,
        timeout: float = PATIENCE,
        pass_fds: Sequence[int] = (),
    ) -> Ended:
        """Run a command line to its end."""
        given = stdin if isinstance(stdin, bytes) else None
        source = None if isinstance(stdin, bytes) else stdin
        process = subprocess.Popen(
            list(argv),
            stdin=subprocess.PIPE if given is not None else source,
            stdout=stdout,
            stderr=stderr,
            cwd=self.job,
            env=self.environment,
            pass_fds=pass_fds,
        )
        with stopping(process):
            out, err = process.communicate(given, timeout=timeout)
        return Ended(process.returncode, out or b"", err or b"")

    def run(
        self,
        *command: Word,
        options: Sequence[Word] = (),
        stdin: bytes | int | IO[bytes] = b"",
        stdout: int | IO[bytes] = subprocess.PIPE,
        stderr: int | IO[bytes] = subprocess.PIPE,
        timeout: float = PATIENCE,
    ) -> Ended:
        """Run a payload without a network (it takes no part in most contracts) to its end."""
        return self.call(
            self.line(command, options=("--network", "none", *options)),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            timeout=timeout,
        )

    def sh(
        self,
        script: str,
        *,
        options: Sequence[Word] = (),
        stdin: bytes | int | IO[bytes] = b"",
        timeout: float = PATIENCE,
    ) -> Ended:
        """Run a shell script as the payload."""
        return self.run("sh", "-c", script, options=options, stdin=stdin, timeout=timeout)

    @contextlib.contextmanager
    def start(
        self,
        command: Sequence[Word],
        *,
        options: Sequence[Word] = ("--network", "none"),
        **streams: Any,
    ) -> Iterator[Running]:
        """Start a payload; it is killed at the end of the context if it still runs."""
        streams = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            **streams,
        }
        process = subprocess.Popen(
            self.line(command, options),
            cwd=self.job,
            env=self.environment,
            bufsize=0,
            **streams,
        )
        with stopping(process):
            yield Running(self, process)

    @contextlib.contextmanager
    def machine(self, *options: Word) -> Iterator[Running]:
        """Start a machine that waits for `exec`s, and stop it in the end."""
        waiting = ("sh", "-c", "echo up; exec sleep 100000")
        with self.start(waiting, options=("--network", "none", *options)) as running:
            running.expect(b"up\n")
            yield running
            running.process.send_signal(signal.SIGTERM)
            assert running.wait().status == 128 + signal.SIGTERM

    def machines(self) -> list[dict[str, Any]]:
        """Return what `apppot ps --json` lists."""
        found = self.call(self.verb("ps", "--json"))
        assert found.status == 0, found.stderr
        listed: list[dict[str, Any]] = json.loads(found.stdout)
        return listed

    def leftovers(self) -> list[str]:
        """Return every file that runs have left in their folders, scratch and /dev/shm."""
        return sorted(
            os.path.join(folder, name)
            for top in (self.runtime, self.scratch)
            for folder, folders, files in os.walk(top)
            for name in (*folders, *files)
        )

    def assert_clean(self) -> None:
        """Fail if a process or a file is left of the runs that have ended."""
        until(lambda: not descendants(self.others), patience=10)
        left = [command_of(pid) for pid in descendants(self.others)]
        assert not left, f"processes left: {left}"
        files = self.leftovers()
        assert not files, f"files left: {files}"


class Running:
    """An `apppot run` that has been started."""

    def __init__(self, apppot: AppPot, process: subprocess.Popen[bytes]) -> None:
        self.apppot = apppot
        self.process = process
        self.seen = b""

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def ident(self) -> str:
        """Return the machine's identifier; only once it is sure to run."""
        (ident,) = (m["id"] for m in self.apppot.machines() if m["pid"] == self.pid)
        return str(ident)

    def expect(self, text: bytes, timeout: float = PATIENCE) -> bytes:
        """Read standard output until it holds `text`; return everything up to its end."""
        assert self.process.stdout is not None
        self.seen = read_until(self.process.stdout.fileno(), text, self.seen, timeout)
        found, text, self.seen = self.seen.partition(text)
        return found + text

    def wait(self, timeout: float = PATIENCE) -> Ended:
        """Wait for the end; return the status and what has not been read yet."""
        out, err = self.process.communicate(timeout=timeout)
        return Ended(self.process.returncode, self.seen + (out or b""), err or b"")

    def exec(
        self,
        *command: Word,
        options: Sequence[Word] = (),
        ident: str = "",
        stdin: bytes = b"",
        timeout: float = PATIENCE,
    ) -> Ended:
        """Run one more command in the machine."""
        words = ("exec", *options, ident or self.ident, "--", *command)
        return self.apppot.call(self.apppot.verb(*words), stdin=stdin, timeout=timeout)

    def kernel(self) -> int:
        """Return the process that is the guest's kernel: the launcher's child, not a helper."""
        return self._child(lambda words: not words[0].endswith((b"passt", b"virtiofsd")))

    def helper(self, name: str) -> int:
        """Return the process of a helper program."""
        return self._child(lambda words: words[0].endswith(name.encode()))

    def _child(self, wanted: Callable[[list[bytes]], bool]) -> int:
        (pid,) = (pid for pid in children(self.pid) if wanted(command_of(pid)))
        return pid


@contextlib.contextmanager
def stopping(process: subprocess.Popen[bytes]) -> Iterator[None]:
    """End a process at the end of the context if it still runs, and close its pipes."""
    try:
        yield
    finally:
        for _ in range(2):  # the second one powers a machine off
            if process.poll() is None:
                process.terminate()
                process.send_signal(signal.SIGCONT)  # it may be stopped
                with contextlib.suppress(subprocess.TimeoutExpired):
                    process.wait(10)
        if process.poll() is None:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream:
                with contextlib.suppress(OSError):
                    stream.close()


def read_until(descriptor: int, text: bytes, seen: bytes = b"", timeout: float = PATIENCE) -> bytes:
    """Read a descriptor until `text` has come; fail if it ends or time runs out first."""
    end = time.monotonic() + timeout
    while text not in seen:
        ready, _, _ = select.select([descriptor], [], [], max(0.0, end - time.monotonic()))
        assert ready, f"no {text!r} within {timeout} s, only {seen!r}"
        try:
            data = os.read(descriptor, 65536)
        except OSError:  # a terminal whose other side has gone
            data = b""
        assert data, f"ended without {text!r}: {seen!r}"
        seen += data
    return seen


def until(look: Callable[[], T], *, patience: float = PATIENCE) -> T:
    """Look until there is something; return the last look's result, found or not."""
    end = time.monotonic() + patience
    while not (found := look()) and time.monotonic() < end:
        time.sleep(0.01)
    return found


def report_of(path: str) -> Mapping[str, Any]:
    """Return a report."""
    with open(path, encoding="utf-8") as file:
        found: dict[str, Any] = json.load(file)
    return found
