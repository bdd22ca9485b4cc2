"""The only module that starts processes."""

from __future__ import annotations

import os
import shlex
import shutil
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING

from apppot.errors import AppPotError, ProcessError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

CLEAN_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
TAIL_LINES = 15


@dataclass(frozen=True)
class Completed:
    """What a finished program left: its status (negative: signal), and its captured output."""

    argv: tuple[str, ...]
    returncode: int
    stdout: bytes
    stderr: bytes


def command_line(argv: Sequence[str]) -> str:
    """Return `argv` as a line that a shell would read back as the same words."""
    return shlex.join(argv)


def find_program(name: str, *, hint: str = "") -> str:
    """Return the path of a program on PATH or in the system's folders.

    Raises AppPotError if it is not there.
    """
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
) -> Completed:
    """Run a helper program to its end; its output goes to `log` if given, else it is captured.

    `timeout` is in seconds. Raises ProcessError if it cannot be started, runs out of time, or
    (with `check`) fails.
    """
    import subprocess  # noqa: PLC0415  3 ms that the run path need not pay

    given = stdin if isinstance(stdin, bytes) else None
    source = None if given is not None else (subprocess.DEVNULL if stdin is None else stdin)
    try:
        done = subprocess.run(
            list(argv),
            cwd=cwd,
            env=dict(env) if env is not None else clean_environment(),
            stdin=source,  # type: ignore[arg-type]
            input=given,
            stdout=log or subprocess.PIPE,
            stderr=subprocess.STDOUT if log else subprocess.PIPE,
            timeout=timeout,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise ProcessError(
            f"'{argv[0]}' did not end within {timeout} s: {command_line(argv)}", returncode=124
        ) from error
    except OSError as error:
        raise ProcessError(
            f"cannot start '{argv[0]}': {error.strerror}", returncode=127
        ) from error
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
) -> int:
    """Start a program and return its process id at once; the caller must reap it.

    `descriptors` maps the child's descriptors to this process's; no others are inherited (those
    that Python opens are close-on-exec). Raises ProcessError if the program cannot be started.
    """
    # Sources are first moved above every target, so that no dup2 overwrites one still needed.
    floor = max((*descriptors.keys(), *descriptors.values(), 2)) + 1
    actions: list[tuple[int, ...]] = []
    for index, source in enumerate(descriptors.values()):
        actions.append((os.POSIX_SPAWN_DUP2, source, floor + index))
    for index, target in enumerate(descriptors):
        actions.append((os.POSIX_SPAWN_DUP2, floor + index, target))
    actions.extend((os.POSIX_SPAWN_CLOSE, floor + index) for index in range(len(descriptors)))
    try:
        return os.posix_spawn(
            argv[0],
            list(argv),
            dict(env) if env is not None else clean_environment(),
            file_actions=actions,
            setsigdef=range(1, 32),
            setsigmask=(),
        )
    except OSError as error:
        name = os.fsdecode(argv[0])
        raise ProcessError(f"cannot start '{name}': {error.strerror}", returncode=127) from error
