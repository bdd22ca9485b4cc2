"""Measure AppPot beside its peers: `bench/run`."""

from __future__ import annotations

import argparse
import contextlib
import datetime as dt
import os
import shutil
import signal
import sys
import tempfile
import time
from dataclasses import replace

from apppot.kit.progress import Progress
from bench import host, report, stock
from bench.measures import MEASURES, Bench, build_programs
from bench.peers import Peers, apppots, collect, export
from bench.series import CaseError, Section

_NEEDS_PEERS = {"start", "first", "compute", "streams", "create"}


def parser() -> argparse.ArgumentParser:
    """Return the command line's grammar."""
    made = argparse.ArgumentParser(prog="bench/run", description=__doc__)
    made.add_argument("--image", default="debian:bookworm", help="debian:bookworm")
    made.add_argument(
        "--programs-image", default="", help="with gcc, make, python3-numpy, sqlite3 and gromacs"
    )
    made.add_argument("--stock", action="store_true", help="build a stock kernel if there is none")
    made.add_argument("--only", default="", help="measures, with commas: " + ",".join(MEASURES))
    made.add_argument("--runs", type=int, default=30, help="turns of a series (30)")
    made.add_argument("--quick", action="store_true", help="5 turns, small amounts, 10 machines")
    made.add_argument("--machines", type=int, default=100, help="for 'fleet' (100)")
    made.add_argument("--apppot", default="", help="the command to measure")
    made.add_argument("--rootless-user", default="", help="as root: whom rootless podman runs as")
    made.add_argument("--output", default="", help="folder for the results (bench/results)")
    return made


def main() -> int:
    """Measure what was asked for and write the results."""
    options = parser().parse_args()
    chosen = [name for name in options.only.split(",") if name] or list(MEASURES)
    unknown = [name for name in chosen if name not in MEASURES]
    if unknown or options.runs < 1 or options.machines < 1:
        parser().error(f"there is no measure {', '.join(unknown)}" if unknown else "too few")
    beside = os.path.join(os.path.dirname(sys.executable), "apppot")
    apppot = options.apppot or (beside if os.path.exists(beside) else shutil.which("apppot") or "")
    if not apppot:
        parser().error("there is no apppot command; see --apppot")
    facts = host.facts()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # clean up
    with contextlib.ExitStack() as stack:
        work = stack.enter_context(
            tempfile.TemporaryDirectory(prefix="apppot-bench-", ignore_cleanup_errors=True)
        )
        os.chmod(work, 0o755)  # a rootless peer has to reach what is in it
        bench = prepare(options, apppot, work, bool(_NEEDS_PEERS & set(chosen)), stack)
        how = " ".join(["bench/run", *sys.argv[1:]])
        sections: list[Section] = []
        for name in chosen:
            began = time.monotonic()
            sections += attempt(name, bench)
            page = write(options.output, sections, facts, how)  # each time: it may be ended
            say(f"{name}: {time.monotonic() - began:.0f} s\n", always=True)
    print(page, end="")
    failed = [goal for section in sections for goal in section.goals if goal.met is False]
    return 1 if failed else 0


def prepare(
    options: argparse.Namespace, apppot: str, work: str, peers: bool, stack: contextlib.ExitStack
) -> Bench:
    """Compile the programs, export the image, and find out which peers run."""
    share = os.path.join(work, "job")
    os.mkdir(share)
    os.chmod(share, 0o777)
    build_programs(share)
    bench = Bench(
        apppot=apppot,
        image=options.image,
        programs_image=options.programs_image,
        share=share,
        work=work,
        peers=Peers(apppots(apppot, options.image)),
        runs=5 if options.quick else options.runs,
        quick=options.quick,
        machines=min(options.machines, 10) if options.quick else options.machines,
        said=say,
    )
    try:
        found_stock = stock.get(os.path.join(share, "init"), work, Progress(), build=options.stock)
        bench = replace(bench, stock=found_stock)
    except CaseError as error:
        bench = replace(bench, no_stock=str(error))
    if not peers:
        return bench
    say("exporting the image for the peers")
    root = os.path.join(work, "root")
    os.mkdir(root)
    export(apppot, options.image, root)
    say("trying the peers")
    found = collect(apppot, options.image, root, share, work, options.rootless_user, stack)
    return replace(bench, peers=found)


def attempt(name: str, bench: Bench) -> list[Section]:
    """Return a measure's sections, or one that says why there are none."""
    try:
        return MEASURES[name](bench)
    except (CaseError, OSError) as error:
        return [Section(name, "", missing={"all": str(error)})]


def write(folder: str, sections: list[Section], facts: dict[str, str], how: str) -> str:
    """Write the page, the plot and the data; return the page."""
    folder = folder or os.path.join(os.path.dirname(os.path.abspath(__file__)), "results")
    os.makedirs(folder, exist_ok=True)
    today = dt.datetime.now(dt.UTC).date().isoformat()
    base = os.path.join(folder, f"{today}-{facts['Host']}")
    plot = os.path.basename(base) + ".svg"
    page = report.markdown(sections, facts, how, plot)
    for extension, text in (
        (".md", page),
        (".svg", report.svg(sections)),
        (".json", report.data(sections, facts)),
    ):
        with open(base + extension, "w", encoding="utf-8") as file:
            file.write(text)
    return page


def say(text: str, *, always: bool = False) -> None:
    """Show what is being done, on a terminal."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text}", end="", file=sys.stderr, flush=True)
    elif always:
        print(text, end="", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
