"""List the running machines of this user on this host."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

from apppot.machine import rundir
from apppot.machine.limits import show_size

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options of `ps`."""
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--quiet", "-q", action="store_true", help="print identifiers only")


def main(options: argparse.Namespace) -> int:
    """Print the machines."""
    running = rundir.machines()
    if options.json:
        print(json.dumps([{"id": m.ident, **m.facts} for m in running], indent=2))
        return 0
    if options.quiet:
        for machine in running:
            print(machine.ident)
        return 0
    rows = [("ID", "PID", "IMAGE", "ENGINE", "CPUS", "MEMORY", "SINCE", "COMMAND")]
    for machine in running:
        facts = machine.facts
        age = int(time.time() - facts["started"])
        since = f"{age // 3600}:{age // 60 % 60:02}:{age % 60:02}"
        command = " ".join(facts["command"])
        printable = "".join(c if c.isprintable() else "?" for c in command)
        short = printable if len(printable) <= 40 else printable[:39] + "…"  # noqa: PLR2004
        rows.append(
            (
                machine.ident,
                str(facts["pid"]),
                facts["image"],
                facts["engine"],
                str(facts["cpus"]),
                show_size(facts["memory"]),
                since,
                short,
            )
        )
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    for row in rows:
        print(
            "  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        )
    return 0
