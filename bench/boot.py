"""Exec of the guest kernel to the first sign of life of its init."""

from __future__ import annotations

import argparse
import contextlib
import os
import select
import signal
import socket
import subprocess
import tempfile
import time
from functools import partial
from typing import TYPE_CHECKING

from bench import stock_run
from bench.peers import APPPOT
from bench.series import CaseError, Section, take_turns
from bench.sides import STOCK, host_cpus, layers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.measures import Bench

MEMORY = 512  # MiB
PATIENCE = 20.0  # seconds
ALIVE = b"bench: alive"


def boot(bench: Bench) -> list[Section]:
    """Both kernels with their initramfs and the image's layers as disks; no network."""
    section = Section(
        "Exec of the kernel to its init",
        "ms",
        note=f"{MEMORY} MB, 1 CPU; stock: to the first line of a small init; AppPot: the command"
        " that its launcher gives, to the first bytes of its agent",
    )
    cases: dict[str, Callable[[], float]] = {}
    if bench.stock is None:
        section.missing[STOCK] = bench.no_stock
    else:
        cases[STOCK] = partial(_stock, bench, bench.stock.kernel, bench.stock.initrd)
    cases[APPPOT] = partial(_ours, bench)
    take_turns(section, cases, bench.runs, bench.said)
    section.at_most(APPPOT, 35)
    return [section]


def _stock(bench: Bench, kernel: str, initrd: str) -> float:
    options = argparse.Namespace(
        memory=f"{MEMORY}M", ncpus=1, initrd=initrd, layer=layers(bench.image), share="/"
    )
    with tempfile.TemporaryDirectory(prefix="apppot-boot-") as folder, _null() as null:
        words = stock_run.kernel_arguments(options, "", folder, null, null)
        reader, writer = os.pipe()
        with os.fdopen(reader, "rb", buffering=0) as console:
            return _time([kernel, *words], console.fileno(), ALIVE, writer, (null,), folder)


def _ours(bench: Bench) -> float:
    from apppot import kit
    from apppot.machine.model import MachineSpec
    from apppot.machine.uml import Descriptors, confine_arguments, kernel_arguments

    tools = kit.find()
    cpus = tuple(map(int, host_cpus(1).split(",")))
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="apppot-boot-"))
        log = stack.enter_context(open(os.path.join(folder, "console"), "wb"))
        host, guest = socket.socketpair()
        stack.callback(host.close)

        def opened(path: str) -> int:
            descriptor = os.open(path, os.O_RDONLY)
            stack.callback(os.close, descriptor)
            return descriptor

        given = Descriptors(
            channel=guest.detach(),
            initrd=opened(tools.file(kit.AGENT)),
            run=opened(folder),
            layers=tuple(map(opened, layers(bench.image))),
        )
        spec = MachineSpec("bench", (), cpus=1, host_cpus=cpus, memory=MEMORY << 20)
        words = [
            *confine_arguments(tools.file(kit.CONFINE), spec, given, os.getpid()),
            tools.file(kit.LINUX),
            *kernel_arguments(spec, given),
        ]
        keep = (given.initrd, given.run, *given.layers, log.fileno())
        return _time(words, host.fileno(), b"", given.channel, keep, folder, log.fileno())


@contextlib.contextmanager
def _null() -> Iterator[int]:
    descriptor = os.open(os.devnull, os.O_RDWR)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _time(
    words: list[str],
    sign: int,
    wanted: bytes,
    end: int,
    keep: tuple[int, ...],
    folder: str,
    console: int = -1,
) -> float:
    """Start a kernel; return the milliseconds until `wanted` came, or anything if that is empty.

    `end` is the guest's end of the channel on which the sign comes; it is closed here.
    """
    out = end if console < 0 else console
    pinned = ["taskset", "-c", host_cpus(1)]
    began = time.perf_counter()
    kernel = subprocess.Popen(
        [*pinned, *words],
        stdin=subprocess.DEVNULL,
        stdout=out,
        stderr=out,
        pass_fds=(end, *keep),
        cwd=folder,
        env={"HOME": "/", "PATH": os.environ.get("PATH", os.defpath)},
        process_group=0,
    )
    os.close(end)
    got = b""
    try:
        while not got or wanted not in got:
            if not select.select([sign], [], [], PATIENCE)[0]:
                raise CaseError(f"no sign of life within {PATIENCE:g} s")
            piece = os.read(sign, 1 << 16)
            if not piece:
                raise CaseError("the kernel ended before its init started")
            got += piece
        return 1e3 * (time.perf_counter() - began)
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(kernel.pid, signal.SIGKILL)
        kernel.wait()
