"""Measures of what programs meet inside a machine: memory, threads, the shared folder."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from bench.peers import APPPOT, NATIVE, Peer
from bench.series import Goal, Section, take_turns

if TYPE_CHECKING:
    from bench.measures import Bench


def _section(
    bench: Bench, title: str, unit: str, command: tuple[str, ...], scale: float, *options: str
) -> Section:
    """Return a measure of `load`, native and in a machine with options of its own."""
    section = Section(title, unit, baseline=NATIVE, digits=2)
    words = (bench.apppot, "run", "--network", "none", *options, bench.image, "--")
    pair = (Peer(APPPOT, words), bench.peers.named(NATIVE))

    def measure(peer: Peer) -> float:
        return bench.run(peer, "@/load", *command).number() / scale

    cases = {peer.name: partial(measure, peer) for peer in pair}
    take_turns(section, cases, max(3, bench.runs // 4), bench.said)
    return section


def _at_most(section: Section, times: float) -> None:
    ratio = section.ratio(APPPOT)
    found = "not measured" if ratio is None else f"{ratio:.2f}"
    text = f"at most {times:g} times native"
    section.goals.append(Goal(text, found, None if ratio is None else ratio <= times))


def memory(bench: Bench) -> list[Section]:
    """First touch of every page, in an order that no folio and no read-ahead can guess."""
    size = 1024 if bench.quick else 4096
    section = _section(
        bench,
        f"{size // 1024} GiB touched in shuffled order, for each page",
        "µs",
        ("scatter", str(size)),
        1e3,
        "--memory",
        f"{size + 1024}M",
    )
    section.at_most(APPPOT, 2)
    return [section]


def threads(bench: Bench) -> list[Section]:
    """Equal loops in one thread and in two, on two CPUs."""
    sections = [
        _section(
            bench, f"{count} threads on 2 CPUs", "s", ("threads", str(count)), 1e9, "--cpus", "2"
        )
        for count in (1, 2)
    ]
    one, two = (section.median(APPPOT) for section in sections)
    gain = 2 * one / two if one and two else None
    sections[1].goals.append(
        Goal(
            "two threads do at least 1.8 times the work of one in the same time",
            "not measured" if gain is None else f"{gain:.2f}",
            None if gain is None else gain >= 1.8,
        )
    )
    return sections


def folder(bench: Bench) -> list[Section]:
    """Write one large file, and make many small ones, in the shared folder."""
    size, count = (256, 2000) if bench.quick else (1024, 10000)
    large = _section(
        bench, f"{size} MiB written to the shared folder", "s", ("write", str(size), "@/large"), 1e9
    )
    _at_most(large, 1 / 0.7)
    small = _section(
        bench,
        f"{count} small files made in the shared folder, for each",
        "µs",
        ("files", str(count), "@/."),
        1e3,
    )
    _at_most(small, 3)
    return [large, small]
