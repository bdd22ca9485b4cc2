"""Run one command in a stock User-Mode Linux: `stock_run.py OPTION... -- WORD...`.

A plain command line, as one would type it: a memory size, seccomp=on, disks, consoles. Standard
input, output and errors are those of the command, through UML's own consoles, and the exit status
is the command's; 125 and the reason on standard error if the kernel did not get that far.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

PIECE = 1 << 18
FAILED = 125
READY = b"bench: ready"
_STATUS = re.compile(rb"bench: status (\d+)")
_COMPLAINT = re.compile(rb"Kernel panic - not syncing: [^\r\n]*|bench: cannot [^\r\n]*")


def parser() -> argparse.ArgumentParser:
    """Return the command line's grammar."""
    made = argparse.ArgumentParser(description=__doc__)
    made.add_argument("--kernel", required=True)
    made.add_argument("--initrd", required=True)
    made.add_argument("--layer", action="append", default=[], help="EROFS, the lowest first")
    made.add_argument("--share", required=True, help="becomes /job")
    made.add_argument("--memory", default="1024M")
    made.add_argument("--ncpus", type=int, default=1)
    made.add_argument("--cpus", default="", help="the host's CPUs that the kernel is kept on")
    made.add_argument("--limit", type=float, default=110, help="seconds after which it is killed")
    made.add_argument("command", nargs="+")
    return made


def kernel_arguments(
    options: argparse.Namespace, script: str, uml_dir: str, tty: int, errors: int
) -> list[str]:
    """Return the kernel's command line; `tty` and `errors` are descriptors."""
    return [
        f"mem={options.memory}",
        "seccomp=on",
        *([f"ncpus={options.ncpus}"] if options.ncpus > 1 else []),
        f"initrd={options.initrd}",
        f"uml_dir={uml_dir}/",
        "con=none",
        "con0=null,fd:1",
        f"con1=fd:{tty},fd:{tty}",
        f"con2=null,fd:{errors}",
        "panic=-1",
        *(f"ubd{n}rc={path}" for n, path in enumerate(options.layer)),
        f"layers={len(options.layer)}",
        f"share={options.share}",
        f"script={script}",
    ]


def ending(console: bytes, status: int, limit: float) -> tuple[int, str]:
    """Return the exit status that the console tells of, and the reason if there is none."""
    told = _STATUS.search(console)
    if told:
        return int(told[1]), ""
    complaint = _COMPLAINT.search(console)
    if complaint:
        return FAILED, complaint[0].decode("utf-8", "replace")
    if status == -signal.SIGKILL:
        return FAILED, f"no end within {limit:g} s"
    how = f"signal {-status}" if status < 0 else f"status {status}"
    return FAILED, f"the stock kernel ended early with {how}"


def pour(source: int, target: int) -> None:
    """Copy a stream to its end."""
    try:
        while piece := os.read(source, PIECE):
            rest = memoryview(piece)
            while rest:
                rest = rest[os.write(target, rest) :]
    except OSError:
        return


def main() -> int:
    """Boot, relay, and tell how it ended."""
    options = parser().parse_args()
    with (
        tempfile.TemporaryDirectory(prefix="stock-uml-") as uml_dir,
        tempfile.NamedTemporaryFile("w", dir=options.share, prefix=".stock-") as script,
    ):
        script.write(f"exec {shlex.join(options.command)}\n")
        script.flush()
        name = os.path.basename(script.name)
        words = functools.partial(kernel_arguments, options, name, uml_dir)
        status, console = boot(options, words)
    code, reason = ending(console, status, options.limit)
    if reason:
        print(reason, file=sys.stderr)
    return code


def boot(options: argparse.Namespace, words: Callable[[int, int], list[str]]) -> tuple[int, bytes]:
    """Run the kernel with a console and a pipe; return its status and what it said."""
    ours, theirs = socket.socketpair()
    errors, errors_in = os.pipe()
    before = ["setpriv", "--pdeathsig", "KILL"]
    before += ["taskset", "-c", options.cpus] if options.cpus else []
    kernel = subprocess.Popen(
        [*before, options.kernel, *words(theirs.fileno(), errors_in)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        pass_fds=(theirs.fileno(), errors_in),
        process_group=0,
    )
    theirs.close()
    os.close(errors_in)
    assert kernel.stdout
    alarm = threading.Timer(options.limit, os.killpg, (kernel.pid, signal.SIGKILL))
    alarm.start()
    relays = [(ours.fileno(), 1), (errors, 2)]
    threads = [threading.Thread(target=pour, args=ends, daemon=True) for ends in relays]
    for thread in threads:
        thread.start()
    console = bytearray()
    try:
        for line in kernel.stdout:
            console += line
            if line.startswith(READY):  # not before: a console that is not raw changes its input
                threading.Thread(target=pour, args=(0, ours.fileno()), daemon=True).start()
        status = kernel.wait()
    finally:
        alarm.cancel()
        with contextlib.suppress(ProcessLookupError):
            os.killpg(kernel.pid, signal.SIGKILL)  # a stock kernel may leave processes behind
    for thread in threads:
        thread.join(10)
    return status, bytes(console)


if __name__ == "__main__":
    sys.exit(main())
