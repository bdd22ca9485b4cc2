"""Try what works on this computer, and say what that means and what to do."""

from __future__ import annotations

import argparse
import json
import shutil
import sys

from apppot.errors import ExitStatus
from apppot.machine.probes import finding, report


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the verb's options."""
    parser.add_argument(
        "names",
        nargs="*",
        metavar="NAME",
        type=_name,
        help="try only these: " + ", ".join(finding.NAMES),
    )
    parser.add_argument("--quick", action="store_true", help="boot nothing: under half a second")
    parser.add_argument("--json", action="store_true", help="print everything as JSON")


def _name(text: str) -> str:
    if text not in finding.NAMES:
        raise argparse.ArgumentTypeError(f"no such probe; there are {', '.join(finding.NAMES)}")
    return text


def main(options: argparse.Namespace) -> int:
    """Run the probes; 0 if runs will work (with names: if none of those failed)."""
    names = options.names or (finding.QUICK if options.quick else finding.NAMES)
    findings = []
    for name in dict.fromkeys(names):
        if sys.stderr.isatty() and not options.json:
            print(f"\r\033[Ktrying {name} ...", end="", file=sys.stderr, flush=True)
        findings.append(finding.examine(name, quick=options.quick))
    if sys.stderr.isatty() and not options.json:
        print("\r\033[K", end="", file=sys.stderr, flush=True)
    verdict = report.verdict(findings, named=bool(options.names))
    if options.json:
        print(json.dumps(report.as_json(findings, verdict), indent=2))
    else:
        print(report.table(findings, verdict, shutil.get_terminal_size((100, 24)).columns))
    return ExitStatus.OK if verdict.ok else ExitStatus.FAILURE
