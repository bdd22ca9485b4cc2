"""The channel between host and machine: bytes per second of standard input and output."""

from __future__ import annotations

import subprocess
from functools import partial
from typing import TYPE_CHECKING

from bench.launch import Run, environment, launch
from bench.peers import APPPOT, NATIVE, Peer
from bench.series import CaseError, Section, take_turns
from bench.sides import STOCK, native, ours, stock

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.measures import Bench

MIB = 1 << 20


def rate(run: Run, size: int) -> float:
    """Return 10^6 bytes per second from what `stream` tells on standard error."""
    try:
        nanoseconds, total = map(int, run.stderr.split()[-2:])
    except ValueError:
        raise CaseError(f"unexpected output {run.stderr[:80]!r}") from None
    if total != size:
        raise CaseError(f"{total} of {size} bytes arrived")
    return total / nanoseconds * 1e3


def to_pipe(bench: Bench, size: int, peer: Peer) -> float:
    """Let the payload write to a pipe that somebody reads."""
    reader = subprocess.Popen(
        ["wc", "-c"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment({})
    )
    assert reader.stdin
    assert reader.stdout
    words = peer.argv("@/stream", "pour", str(size))
    out = reader.stdin.fileno()
    try:
        run = launch(words, extra=peer.extra, cwd=bench.share, stdout=out)
    finally:
        reader.stdin.close()
        counted = reader.stdout.read()
        reader.wait()
    if int(counted) != size:
        raise CaseError(f"{int(counted)} of {size} bytes arrived")
    return rate(run, size)


def from_pipe(bench: Bench, size: int, peer: Peer) -> float:
    """Let the payload read from a pipe that somebody writes to."""
    words = ["head", "-c", str(size), "/dev/zero"]
    writer = subprocess.Popen(words, stdout=subprocess.PIPE)
    assert writer.stdout
    try:
        run = bench.run(peer, "@/stream", "drain", str(size), stdin=writer.stdout.fileno())
        return rate(run, size)
    finally:
        writer.stdout.close()
        writer.wait()


def sides(bench: Bench) -> list[Section]:
    """Compare the agent's channel with a console of the stock kernel, and with a mere pipe."""
    sizes = {NATIVE: 256 * MIB, APPPOT: 256 * MIB, STOCK: 32 * MIB}
    return [
        _side(bench, "Console channel, guest to host", to_pipe, sizes),
        _side(bench, "Console channel, host to guest", from_pipe, {**sizes, STOCK: 8 * MIB}),
    ]


def _side(
    bench: Bench,
    title: str,
    measure: Callable[[Bench, int, Peer], float],
    sizes: dict[str, int],
) -> Section:
    section = Section(
        title,
        "MB/s",
        digits=1,
        baseline=NATIVE,
        note="the machine on one CPU, whoever is at the other end where the host puts them;"
        " AppPot's launcher relays frames, for the stock kernel a relay copies its console",
    )
    free = ours(bench, free=True)
    peers = [Peer(NATIVE, native(bench).prefix, job=bench.share), Peer(APPPOT, free.prefix)]
    try:
        peers.insert(1, stock(bench))
    except CaseError as error:
        section.missing[STOCK] = str(error)
    cases = {peer.name: partial(measure, bench, sizes[peer.name], peer) for peer in peers}
    take_turns(section, cases, max(3, bench.runs // 6), bench.said)
    section.at_least(APPPOT, 200)
    return section
