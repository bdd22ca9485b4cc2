"""Measures of what programs meet inside a machine, beside native and a stock User-Mode Linux."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from bench.peers import APPPOT, NATIVE, Peer
from bench.series import CaseError, Ended, Section, take_turns
from bench.sides import APPPOT_FREE, STOCK, STOCK_FREE, compare, native, ours, stock

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.measures import Bench

TURNS = "native: two processes in turns"


def _printed(bench: Bench, scale: float, *command: str) -> Callable[[Peer], float]:
    """Return the measure that is the number which a command prints."""

    def measure(peer: Peer) -> float:
        return bench.run(peer, *command).number() / scale

    return measure


def faults(bench: Bench) -> list[Section]:
    """First touch of anonymous pages, as programs do it and with folios forbidden."""
    section = Section(
        "Anonymous page fault",
        "µs",
        digits=2,
        note="80 MB touched in order, for each page; memory that the kernel has used before",
    )
    compare(bench, section, _printed(bench, 1e3, "@/micro", "touch"))
    section.times_baseline(APPPOT, most=1.3)
    alone = Section(
        "Anonymous page fault of a single page",
        "µs",
        digits=2,
        note="the program forbids large folios for its memory (MADV_NOHUGEPAGE)",
    )
    return [section, compare(bench, alone, _printed(bench, 1e3, "@/micro", "fault"))]


def memory(bench: Bench) -> list[Section]:
    """First touch of every page, in an order that no folio and no read-ahead can guess."""
    size = 1024 if bench.quick else 4096
    section = Section(
        f"{size // 1024} GiB touched in shuffled order, for each page",
        "µs",
        digits=2,
        baseline=NATIVE,
        note="with the host's default limit on mappings",
    )

    def measure(peer: Peer) -> float:
        try:
            return bench.run(peer, "@/load", "scatter", str(size)).number() / 1e3
        except CaseError as error:
            if peer.name == STOCK:
                raise Ended(str(error)) from None
            raise

    peers = [native(bench), ours(bench, memory=size + 1024)]
    try:
        peers.insert(1, stock(bench, memory=size + 1024, limit=60))
    except CaseError as error:
        section.missing[STOCK] = str(error)
    cases = {peer.name: partial(measure, peer) for peer in peers}
    take_turns(section, cases, max(3, bench.runs // 6), bench.said)
    section.at_most(APPPOT, 2)
    return [section]


def calls(bench: Bench) -> list[Section]:
    """Time one system call, pinned by the user and not, and creation of a process."""
    section = Section(
        "System call (getppid)",
        "µs",
        digits=2,
        baseline=NATIVE,
        note="pinned with taskset, but for the cases that say otherwise; two processes of the host"
        " that wake each other in turns are the least that a guest's system call can cost",
    )
    peers = [native(bench), ours(bench), ours(bench, free=True)]
    try:
        peers[1:1] = [stock(bench)]
        peers.append(stock(bench, free=True))
    except CaseError as error:
        section.missing[STOCK] = section.missing[STOCK_FREE] = str(error)
    measure = _printed(bench, 1e3, "@/micro", "getppid")
    turns = _printed(bench, 1e3, "@/micro", "turns")
    cases = {peer.name: partial(measure, peer) for peer in peers}
    cases[TURNS] = partial(turns, native(bench))
    take_turns(section, cases, max(3, bench.runs // 3), bench.said)
    section.at_most(APPPOT, 2)
    section.at_most(APPPOT_FREE, 2)
    spawn = Section("fork, exec and wait of a small static program", "µs", digits=0)
    compare(bench, spawn, _printed(bench, 1e3, "@/micro", "spawn"))
    spawn.times_baseline(APPPOT, most=2)
    return [section, spawn]


def threads(bench: Bench) -> list[Section]:
    """Time an OpenMP loop with one thread and with two."""
    section = Section(
        "OpenMP loop, 2 threads on 2 CPUs: speed-up over 1 thread",
        "times",
        digits=2,
        note="one program measures both, one after the other",
    )
    compare(bench, section, _printed(bench, 1, "@/openmp", "2"), cpus=2)
    section.at_least(APPPOT, 1.8)
    return [section]


def folder(bench: Bench) -> list[Section]:
    """Write one large file, and make many small ones, in the shared folder."""
    size, count = (256, 2000) if bench.quick else (1024, 10000)
    runs = max(3, bench.runs // 6)
    large = Section(f"{size} MiB written to a shared folder", "s", digits=2)
    compare(bench, large, _printed(bench, 1e9, "@/load", "write", str(size), "@/large"), runs=runs)
    large.times_baseline(APPPOT, least_speed=0.7)
    small = Section(f"{count} small files made in a shared folder, for each", "µs")
    compare(bench, small, _printed(bench, 1e3, "@/load", "files", str(count), "@/."), runs=runs)
    small.times_baseline(APPPOT, most=3)
    return [large, small]
