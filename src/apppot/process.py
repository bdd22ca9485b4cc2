"""The only module that starts processes."""

from __future__ import annotations

import contextlib
import os
import signal

from apppot.errors import AppPotError, ExitStatus, ProcessError
from apppot.lean import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from typing import IO, Any, NoReturn

CLEAN_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TAIL_LINES = 15
# What terminals, users and batch systems send to all processes of a job at once, and SIGXFSZ,
# without which a write past `ulimit -f` is an error instead of an end.
FOREIGN_SIGNALS = (
    signal.SIGHUP,
    signal.SIGINT,
    signal.SIGQUIT,
    signal.SIGTERM,
    signal.SIGUSR1,
    signal.SIGUSR2,
    signal.SIGTSTP,
    signal.SIGTTIN,
    signal.SIGTTOU,
    signal.SIGCONT,
    signal.SIGXCPU,
    signal.SIGXFSZ,
)


@dataclass(frozen=True)
class Completed:
    """What a finished program left: its status (negative: signal), and its captured output."""

    argv: tuple[str, ...]
    returncode: int
    stdout: bytes
    stderr: bytes


def hold_signals() -> None:
    """Let FOREIGN_SIGNALS wait."""
    signal.pthread_sigmask(signal.SIG_BLOCK, FOREIGN_SIGNALS)


def release_signals() -> None:
    """Let FOREIGN_SIGNALS come again, and those that have waited."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, FOREIGN_SIGNALS)


def check_signals(when: str) -> None:
    """Raise AppPotError if one that ends a run waits among the signals that are held."""
    for number in sorted(signal.sigpending() & _ending()):
        raise _ended_by(number, when)


@contextlib.contextmanager
def signals_heeded(when: str) -> Iterator[None]:
    """Let signals that end a run raise AppPotError at once, while others are held.

    For long work whose end leaves nothing behind, wherever it comes.
    """
    import threading  # not needed on the run path

    if threading.current_thread() is not threading.main_thread():  # which alone gets them
        yield
        return

    def end(number: int, _: object) -> None:
        raise _ended_by(number, when)

    before = {number: signal.signal(number, end) for number in _ending()}
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, before)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in before.items():
            signal.signal(number, handler)


def _ending() -> frozenset[signal.Signals]:
    """Return the signals that end a run, without those that are ignored, as with nohup."""
    all_of_them = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
    return frozenset(n for n in all_of_them if signal.getsignal(n) is not signal.SIG_IGN)


def _ended_by(number: int, when: str) -> AppPotError:
    status = ExitStatus.SIGNAL_BASE + number
    return AppPotError(f"ended by {signal.Signals(number).name} {when}", status=status)


@contextlib.contextmanager
def signals_held() -> Iterator[None]:
    """Let FOREIGN_SIGNALS wait while an end would leave something behind."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, FOREIGN_SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def command_line(argv: Sequence[str]) -> str:
    """Return `argv` as a line that a shell would read back as the same words."""
    import shlex  # for messages

    return shlex.join(argv)


def find_program(name: str, *, hint: str = "") -> str:
    """Return the path of a program on PATH or in the system's folders.

    Raises AppPotError if it is not there.
    """
    import shutil  # 2 ms that the run path need not pay

    found = shutil.which(name) or shutil.which(name, path=CLEAN_PATH)
    if not found:
        raise AppPotError(f"the program '{name}' is not installed", hint=hint)
    return found


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Return the environment for helper programs: PATH, a fixed locale, proxies, and `extra`."""
    environment = {"PATH": os.environ.get("PATH", CLEAN_PATH), "LC_ALL": "C.UTF-8", "TZ": "UTC"}
    for name in ("HOME", "TMPDIR", "http_proxy", "https_proxy", "no_proxy", "ftp_proxy"):
        if name in os.environ:
            environment[name] = os.environ[name]
    environment.update(extra or {})
    return environment


def run(
    argv: Sequence[str],
    *,
    cwd: str | None = None,
    env: Mapping[str, str] | None = None,
    stdin: int | IO[bytes] | bytes | None = None,
    log: IO[bytes] | None = None,
    check: bool = True,
    timeout: float | None = None,
    pass_fds: Sequence[int] = (),
) -> Completed:
    """Run a helper program to its end; its output goes to `log` if given, else it is captured.

    `timeout` is in seconds; `pass_fds` are descriptors that it inherits under the same numbers.
    Raises ProcessError if it cannot be started, runs out of time, or (with `check`) fails.
    """
    import subprocess  # 3 ms that the run path need not pay

    given = stdin if isinstance(stdin, bytes) else None
    source: Any = None if given is not None else (subprocess.DEVNULL if stdin is None else stdin)
    try:
        done = subprocess.run(
            list(argv),
            cwd=cwd,
            env=dict(env) if env is not None else clean_environment(),
            stdin=source,
            input=given,
            stdout=log or subprocess.PIPE,
            stderr=subprocess.STDOUT if log else subprocess.PIPE,
            timeout=timeout,
            pass_fds=pass_fds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ProcessError(
            f"'{argv[0]}' did not end within {timeout} s: {command_line(argv)}", returncode=124
        ) from error
    except OSError as error:
        raise ProcessError(f"cannot start '{argv[0]}': {error.strerror}", returncode=127) from error
    result = Completed(
        tuple(map(str, argv)), done.returncode, done.stdout or b"", done.stderr or b""
    )
    if check and result.returncode != 0:
        raise failure(result)
    return result


def failure(result: Completed) -> ProcessError:
    """Return the error for a program that failed, with its last lines."""
    text = (result.stderr or result.stdout).decode("utf-8", "replace").rstrip()
    tail = "\n".join(text.splitlines()[-TAIL_LINES:])
    how = (
        f"was killed by signal {-result.returncode}"
        if result.returncode < 0
        else f"failed with status {result.returncode}"
    )
    message = f"'{result.argv[0]}' {how}: {command_line(result.argv)}"
    return ProcessError(
        message + (f"\n{tail}" if tail else ""), returncode=result.returncode, output=text
    )


def spawn(
    argv: Sequence[str | bytes],
    *,
    descriptors: Mapping[int, int],
    env: Mapping[str, str] | None = None,
    group: bool = False,
    deaf: bool = False,
) -> int:
    """Start a program and return its process id at once; the caller must reap it.

    `descriptors` maps the child's descriptors to this process's; no others are inherited (those
    that Python opens are close-on-exec). With `group` it leads a process group of its own, which
    can be signalled as a whole. With `deaf` it starts with FOREIGN_SIGNALS blocked, so that its
    caller alone decides on its end. Raises ProcessError if the program cannot be started.
    """
    # Sources are first moved above every target, so that no dup2 overwrites one still needed.
    floor = max((*descriptors.keys(), *descriptors.values(), 2)) + 1
    actions: list[tuple[int, ...]] = []
    for index, source in enumerate(descriptors.values()):
        actions.append((os.POSIX_SPAWN_DUP2, source, floor + index))
    for index, target in enumerate(descriptors):
        actions.append((os.POSIX_SPAWN_DUP2, floor + index, target))
    actions.extend((os.POSIX_SPAWN_CLOSE, floor + index) for index in range(len(descriptors)))
    leader: dict[str, Any] = {"setpgroup": 0} if group else {}
    try:
        return os.posix_spawn(
            argv[0],
            list(argv),
            dict(env) if env is not None else clean_environment(),
            file_actions=actions,
            setsigdef=range(1, 32),
            setsigmask=FOREIGN_SIGNALS if deaf else (),
            **leader,
        )
    except OSError as error:
        name = os.fsdecode(argv[0])
        raise ProcessError(f"cannot start '{name}': {error.strerror}", returncode=127) from error


def in_child(function: Callable[[], Any], deadline: float) -> Any:
    """Call `function` in a forked child and return its result, which must fit into JSON.

    For calls that may crash, hang, or change the process for good (seccomp, Landlock, namespaces).
    After `deadline` seconds the child and its own children are killed; this never waits for a
    child that cannot be killed. Only from a process with one thread. Raises ProcessError with
    returncode 124 (deadline), the negative signal, or 1 (exception in the child: its text).
    """
    import json  # not needed on the run path
    import time

    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        _be_child(function, writer, deadline)
    os.close(writer)
    with open(reader, "rb", buffering=0) as stream:
        end = time.monotonic() + deadline
        answer = _read_until(stream.fileno(), end)
    status = _reap(pid, end if answer is not None else 0.0)
    name = getattr(function, "__name__", "the test")
    if answer:
        kind, value = json.loads(answer)
        if kind == "result":
            return value
        raise ProcessError(str(value), returncode=1)
    if answer is None or status is None or status == -signal.SIGALRM:
        raise ProcessError(f"{name} did not end within {deadline:g} s", returncode=124)
    raise ProcessError(f"{name} {_how_it_ended(status)}", returncode=status or 1)


class Beside:
    """A forked child that calls `function` while this process goes on; see `in_child`.

    `descriptor` can be read once there is an answer, or no child any more.
    """

    def __init__(self, function: Callable[[], Any]) -> None:
        self.descriptor, writer = os.pipe()
        self._pid = os.fork()
        if self._pid == 0:
            os.close(self.descriptor)
            _be_child(function, writer, 0)
        os.close(writer)

    def result(self) -> Any:
        """Wait for the result and return it; raises ProcessError. Only once."""
        import json

        with open(self.descriptor, "rb") as stream:
            answer = stream.read()
        pid, self._pid = self._pid, 0
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        kind, value = json.loads(answer) if answer else ("error", _how_it_ended(status))
        if kind == "result":
            return value
        raise ProcessError(str(value), returncode=status or 1)

    def end(self) -> None:
        """End the child and its own children, if it is still there."""
        if self._pid:
            os.close(self.descriptor)
            _kill_group(self._pid)
            with contextlib.suppress(ProcessLookupError):  # before it led its group
                os.kill(self._pid, signal.SIGKILL)
            os.waitpid(self._pid, 0)
            self._pid = 0


def _be_child(function: Callable[[], Any], writer: int, deadline: float) -> NoReturn:
    """Be a child: call, write the answer, and leave without the parent's clean-up.

    Without a deadline (0), only the parent ends it.
    """
    import json

    try:
        os.setpgid(0, 0)  # so that its children can be killed with it
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
            signal.signal(number, signal.SIG_DFL)
        # Whatever becomes of the parent, this process ends.
        if deadline:
            signal.setitimer(signal.ITIMER_REAL, deadline + 1)
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        try:
            answer = ["result", function()]
        except OSError as error:
            answer = ["error", error.strerror or str(error)]
        except Exception as error:  # noqa: BLE001  it is handed to the parent
            answer = ["error", f"{type(error).__name__}: {error}"]
        left = memoryview(json.dumps(answer).encode())
        while left:
            left = left[os.write(writer, left) :]
    finally:
        os._exit(0)


def _read_until(descriptor: int, end: float) -> bytes | None:
    """Return everything up to end-of-file; None if the time `end` comes first."""
    import select
    import time

    pieces: list[bytes] = []
    while select.select([descriptor], [], [], max(0.0, end - time.monotonic()))[0]:
        piece = os.read(descriptor, 65536)
        if not piece:
            return b"".join(pieces)
        pieces.append(piece)
    return None


def _reap(pid: int, end: float) -> int | None:
    """Reap in_child()'s child, from the time `end` on by force; None if it does not die."""
    import time

    killed = False
    give_up = max(end, time.monotonic()) + 2.0
    while time.monotonic() < give_up:
        found, status = os.waitpid(pid, os.WNOHANG)
        if found:
            _kill_group(pid)  # what it may have left
            return os.waitstatus_to_exitcode(status)
        if not killed and time.monotonic() >= end:
            _kill_group(pid)
            killed = True
        time.sleep(0.002)
    return None


def _kill_group(pid: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _how_it_ended(status: int) -> str:
    return f"was killed by signal {-status}" if status < 0 else f"ended with status {status}"
