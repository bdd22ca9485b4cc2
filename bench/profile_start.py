"""Show where the time of `apppot run IMAGE -- true` goes: `python -m bench.profile_start`.

Each turn is a run of bench/profiled.py. The second table is Python's own list of imports.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time

from bench.launch import environment
from bench.python_part import after_site, imports

_CHILD = os.path.join(os.path.dirname(os.path.abspath(__file__)), "profiled.py")
_MARK = "profile: "
STEPS = (
    "python is up",
    "modules loaded",
    "options parsed",
    "image resolved",
    "kit found",
    "passt started",
    "kernel started",
    "driver loaded",
    "HELLO",
    "READY",
    "STARTED",
    "EXITED",
    "BYE",
    "machine reaped",
    "run() returned",
    "exit",
)


def turn(arguments: list[str]) -> dict[str, float]:
    """Run once; return milliseconds since the launch by step."""
    began = time.time_ns()
    words = [sys.executable, _CHILD, *arguments]
    done = subprocess.run(words, env=environment({}), stderr=subprocess.PIPE, check=False)
    ended = time.time_ns()
    marks = {}
    for line in done.stderr.decode(errors="replace").splitlines():
        name, equals, when = line.removeprefix(_MARK).partition("=")
        if line.startswith(_MARK) and equals:
            marks[name] = int(when)
    if not marks:
        sys.exit(done.stderr.decode(errors="replace") or "the run said nothing")
    return {name: (when - began) / 1e6 for name, when in {**marks, "exit": ended}.items()}


def show_steps(turns: list[dict[str, float]]) -> None:
    """Print when each step was done and what it took: medians, and the fastest."""
    print(f"{'step':16} {'at, ms':>8} {'took':>8} {'fastest':>8}")
    previous = ""
    for step in STEPS:
        if not all(step in one for one in turns):
            continue
        at = statistics.median(one[step] for one in turns)
        took = [one[step] - one.get(previous, 0.0) for one in turns]
        print(f"{step:16} {at:8.1f} {statistics.median(took):8.1f} {min(took):8.1f}")
        previous = step


def show_imports(arguments: list[str], count: int) -> None:
    """Print the modules that cost most, with Python's own tracing on."""
    words = [sys.executable, "-X", "importtime", "-m", "apppot", *arguments]
    subprocess.run(words, env=environment({}), capture_output=True, check=False)  # compiles
    done = subprocess.run(words, env=environment({}), capture_output=True, check=False)
    everything = imports(done.stderr.decode(errors="replace"))
    found = after_site(everything)
    print(f"\n{'module':36} {'self, ms':>8}")
    for name, (own, _) in sorted(found.items(), key=lambda item: -item[1][0])[:count]:
        print(f"{name:36} {own / 1e3:8.2f}")
    total = sum(own for own, _ in found.values())
    ours = sum(own for name, (own, _) in found.items() if name.split(".")[0] == "apppot")
    print(f"{'all, ' + str(len(found)) + ' modules':36} {total / 1e3:8.2f}")
    print(f"{'of them AppPot':36} {ours / 1e3:8.2f}")


def main() -> int:
    """Print both tables."""
    parser = argparse.ArgumentParser(prog="python -m bench.profile_start", description=__doc__)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--imports", type=int, default=25, metavar="N", help="modules to list")
    parser.add_argument("arguments", nargs="*", metavar="WORD", help="run debian:bookworm true")
    options = parser.parse_args()
    arguments = options.arguments or ["run", "debian:bookworm", "true"]
    turns = [turn(arguments) for _ in range(options.runs + 1)][1:]
    show_steps(turns)
    show_imports(arguments, options.imports)
    return 0


if __name__ == "__main__":
    sys.exit(main())
