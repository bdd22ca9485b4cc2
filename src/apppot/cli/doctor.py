"""Try what works on this computer, and say what that means and what to do."""

from __future__ import annotations

import json
import shutil
import sys
from typing import TYPE_CHECKING

from apppot.errors import ExitStatus
from apppot.machine import probes
from apppot.machine.probes import report

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        choices=[*probes.NAMES, []],
        help="try only these: " + ", ".join(probes.NAMES),
    )
    parser.add_argument("--quick", action="store_true", help="boot nothing: under half a second")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def main(options: argparse.Namespace) -> int:
    """Run the probes; 0 if runs will work (with names: if none of those failed)."""
    names = options.names or (probes.QUICK if options.quick else probes.NAMES)
    findings = []
    for name in dict.fromkeys(names):
        if sys.stderr.isatty() and not options.json:
            print(f"\r\033[Ktrying {name} ...", end="", file=sys.stderr, flush=True)
        findings.append(probes.examine(name, quick=options.quick))
    if sys.stderr.isatty() and not options.json:
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    verdict = report.verdict(findings, named=bool(options.names))
    if options.json:
        print(json.dumps(report.as_json(findings, verdict), indent=2))
    else:
        print(report.table(findings, verdict, shutil.get_terminal_size((100, 24)).columns))
    return ExitStatus.OK if verdict.ok else ExitStatus.FAILURE
