"""The measures: what is run, what is read off, and which goals it is held against."""

from __future__ import annotations

import os
import subprocess
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from bench import (
    applications,
    boot,
    builds,
    changes,
    channel,
    checkpoints,
    disks,
    engines,
    inside,
    memory,
    pull,
    python_part,
    shares,
)
from bench.launch import Run, launch
from bench.peers import APPPOT, APPPOT_OFFLINE, NATIVE, PODMAN, Peer, Peers
from bench.series import CaseError, Goal, Section, take_turns

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.stock import Stock

MIB = 1 << 20


@dataclass(frozen=True)
class Bench:
    """What every measure needs."""

    apppot: str
    image: str
    programs_image: str
    share: str  # the folder that all see, with the static programs in it
    work: str
    peers: Peers
    runs: int
    quick: bool
    machines: int
    said: Callable[[str], None]
    stock: Stock | None = None
    no_stock: str = "not asked for"

    def run(self, peer: Peer, *command: str, stdin: int = subprocess.DEVNULL) -> Run:
        """Run a command with a peer, in the shared folder."""
        return launch(peer.argv(*command), extra=peer.extra, cwd=self.share, stdin=stdin)

    def section(
        self,
        title: str,
        unit: str,
        measure: Callable[[Peer], float],
        *,
        baseline: str = "",
        without: tuple[str, ...] = (),
        runs: int | None = None,
        digits: int = 1,
        note: str = "",
    ) -> Section:
        """Return a measure of all peers, in turn."""
        section = Section(title, unit, baseline=baseline, digits=digits, note=note)
        section.missing.update(self.peers.missing)
        chosen = [peer for peer in self.peers.found if peer.name not in without]
        cases = {peer.name: partial(measure, peer) for peer in chosen}
        take_turns(section, cases, runs or self.runs, self.said)
        return section


def start(bench: Bench) -> list[Section]:
    """Launch to exit of `true`, warm."""
    section = bench.section(
        "Launch to exit of `true`",
        "ms",
        lambda peer: 1e3 * bench.run(peer, "/bin/true").seconds,
        baseline=PODMAN,
        note="warm; all but plain `apppot` without a network",
    )
    section.at_most(APPPOT, 150)
    section.at_most(APPPOT_OFFLINE, 150)
    for case in (APPPOT, APPPOT_OFFLINE):
        ratio = section.ratio(case)
        section.goals.append(
            Goal(
                f"{case}: at most 0.8 of podman in the same series",
                "not measured" if ratio is None else f"{ratio:.2f}",
                None if ratio is None else ratio <= 0.8,
            )
        )
    return [section]


def first(bench: Bench) -> list[Section]:
    """Launch to the payload's first instruction: a static program that prints the time of day."""

    def measure(peer: Peer) -> float:
        run = bench.run(peer, "@/first")
        waited = (run.number() - run.began) / 1e6
        if not 0 <= waited <= 1e3 * run.seconds + 1:  # the guest's clock has to be the host's
            raise CaseError(f"its clock is off: {waited:.1f} ms of {1e3 * run.seconds:.1f} ms")
        return waited

    section = bench.section(
        "Launch to the payload's first instruction",
        "ms",
        measure,
        baseline=PODMAN,
        note="the payload prints the time of day; each value was checked against the host's clock",
    )
    section.at_most(APPPOT, 100)
    section.at_most(APPPOT_OFFLINE, 100)
    return [section]


def python(bench: Bench) -> list[Section]:
    """Time the launcher itself."""
    return python_part.sections(bench)


def compute(bench: Bench) -> list[Section]:
    """CPU-bound static programs, timed by themselves."""
    sections = []
    for what in ("float", "integer", "memory"):
        section = bench.section(
            f"CPU-bound payload: {what}",
            "ms",
            lambda peer, what=what: bench.run(peer, "@/compute", what).number() / 1e6,  # type: ignore[misc]
            baseline=NATIVE,
            without=(APPPOT_OFFLINE,),
            runs=max(3, bench.runs // 3),
            note="a static program; it times its own work",
        )
        native, guest = section.median(NATIVE), section.median(APPPOT)
        speed = native / guest if native and guest else None
        section.goals.append(
            Goal(
                f"{what}: at least 0.98 of the native speed",
                "not measured" if speed is None else f"{speed:.3f}",
                None if speed is None else speed >= 0.98,
            )
        )
        sections.append(section)
    return sections


def streams(bench: Bench) -> list[Section]:
    """Bytes per second through standard output and input, as the payload sees it."""
    size = (64 if bench.quick else 512) * MIB

    def to_null(peer: Peer) -> float:
        words = peer.argv("@/stream", "pour", str(size))
        done = launch(words, extra=peer.extra, cwd=bench.share, stdout=subprocess.DEVNULL)
        return channel.rate(done, size)

    to_pipe = partial(channel.to_pipe, bench, size)
    from_pipe = partial(channel.from_pipe, bench, size)
    sections = []
    # Those that hand /dev/null itself to the payload relay nothing: there is no rate to compare.
    direct = (NATIVE, "Charliecloud", "bwrap", "PRoot", "Apptainer")
    for title, measure, left_out in (
        ("Standard output to /dev/null", to_null, direct),
        ("Standard output to a pipe", to_pipe, ()),
        ("Standard input from a pipe", from_pipe, ()),
    ):
        section = bench.section(
            title,
            "MB/s",
            measure,
            without=(APPPOT_OFFLINE, *left_out),
            baseline=PODMAN,
            runs=max(3, bench.runs // 3),
            digits=0,
            note=f"{size // MIB} MiB of zeros in writes of 64 KiB",
        )
        section.at_least(APPPOT, 95)
        sections.append(section)
    return sections


def idle(bench: Bench) -> list[Section]:
    """Memory of one idle machine."""
    return memory.idle(bench)


def fleet(bench: Bench) -> list[Section]:
    """Memory of many idle machines at once."""
    return memory.fleet(bench)


def create(bench: Bench) -> list[Section]:
    """Create, write and remove files (no goals)."""
    return [
        bench.section(
            f"File created, written, removed in {where}",
            "µs",
            lambda peer, folder=folder: (  # type: ignore[misc]
                bench.run(peer, "@/micro", "create", folder).number() / 1e3
            ),
            baseline=NATIVE,
            without=(APPPOT_OFFLINE,),
            runs=max(3, bench.runs // 3),
        )
        for where, folder in (("the shared folder", "@/."), ("/tmp", "/tmp"))
    ]


MEASURES: dict[str, Callable[[Bench], list[Section]]] = {
    "start": start,
    "first": first,
    "python": python,
    "compute": compute,
    "streams": streams,
    "idle": idle,
    "fleet": fleet,
    "boot": boot.boot,
    "engines": engines.engines,
    "checkpoints": checkpoints.checkpoints,
    "calls": inside.calls,
    "faults": inside.faults,
    "memory": inside.memory,
    "threads": inside.threads,
    "folder": inside.folder,
    "shares": shares.shares,
    "channel": channel.sides,
    "create": create,
    **applications.MEASURES,
    "changes": changes.start,
    "saving": changes.saving,
    "size": changes.size,
    "pull": pull.pull,
    "firstrun": pull.first_run,
    "build": builds.build,
    "disks": disks.disks,
}


def build_programs(share: str) -> None:
    """Compile the static programs into the shared folder; raises CaseError."""
    sources = os.path.join(os.path.dirname(os.path.abspath(__file__)), "programs")
    for name in sorted(os.listdir(sources)):
        base, extension = os.path.splitext(name)
        if extension == ".c":
            words = ["gcc", "-O2", "-static", "-pthread", "-o", os.path.join(share, base)]
            words += ["-fopenmp"] if base == "openmp" else []
            launch([*words, os.path.join(sources, name)])
