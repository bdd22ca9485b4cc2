#!/usr/bin/env python3
"""Write docs/reference/engines.md: what works under which engine, from runs of the contract tests.

    pytest tests/contract --junitxml=FILE; docs/make_engines.py FILE...

reads the results of whole runs, one or more for each engine, into docs/reference/engines.json and
makes the page of it. With --check it only compares the page with what is in engines.json.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import sys
from typing import TYPE_CHECKING, TypedDict
from xml.etree import ElementTree as ET  # our own tests' output

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = os.path.dirname(os.path.abspath(__file__))
TESTS = os.path.join(HERE, "..", "tests", "contract")
RESULTS = os.path.join(HERE, "reference", "engines.json")
PAGE = os.path.join(HERE, "reference", "engines.md")
_HEAD = """\
<!-- Made by docs/make_engines.py from runs of tests/contract. Do not edit. -->

# What works under which engine

Each row is a file of contract tests, which run unchanged under every engine. A cell says how many
passed. What was left out is named below, with the reason. How the engines differ otherwise is in
[Running under KVM and QEMU](../how-to/run-under-kvm-and-qemu.md).
"""


class Found(TypedDict):
    """What became of the tests of one file under one engine."""

    passed: int
    failed: list[str]
    left_out: dict[str, str]


Results = dict[str, dict[str, Found]]


def read(path: str, results: Results) -> None:
    """Add what a file of pytest's (--junitxml) says to the results, in place of older ones."""
    fresh: Results = {}
    for case in ET.parse(path).getroot().iter("testcase"):  # noqa: S314
        module = case.get("classname", "").rpartition(".")[2]
        name, _, parameters = case.get("name", "").removesuffix("]").partition("[")
        engine, _, others = parameters.partition("-")
        if engine not in ("uml", "kvm", "tcg", "xen", "virtualbox"):
            continue
        found = fresh.setdefault(module, {}).setdefault(
            engine, {"passed": 0, "failed": [], "left_out": {}}
        )
        skipped = case.find("skipped")
        if skipped is not None:
            found["left_out"][f"{name} {others}".strip()] = skipped.get("message", "")
        elif case.find("failure") is not None or case.find("error") is not None:
            found["failed"].append(name)
        else:
            found["passed"] += 1
    for module, engines in fresh.items():
        results.setdefault(module, {}).update(engines)


def page(results: Results) -> str:
    """Return the page's text."""
    engines = list(dict.fromkeys(engine for row in results.values() for engine in row))
    rows = [
        f"| {_promise(module)} | {' | '.join(cells)} |"
        for module in sorted(_modules())
        for cells in [[_cell(results.get(module, {}).get(engine)) for engine in engines]]
    ]
    head = f"| what is promised | {' | '.join(f'`{engine}`' for engine in engines)} |"
    table = "\n".join([head, "| --- |" + " --- |" * len(engines), *rows])
    return "\n".join([_HEAD, table, *_exceptions(results, engines)]) + "\n"


def _modules() -> list[str]:
    names = os.listdir(TESTS)
    return [name[:-3] for name in names if name.startswith("test_") and name.endswith(".py")]


def _promise(module: str) -> str:
    with open(os.path.join(TESTS, f"{module}.py"), encoding="utf-8") as file:
        said = ast.get_docstring(ast.parse(file.read())) or module
    sentence = said.partition("\n\n")[0].replace("\n", " ").removeprefix("Contract: ").rstrip(".")
    return sentence[0].upper() + sentence[1:]


def _cell(found: Found | None) -> str:
    if found is None:
        return "not run"
    words = [str(found["passed"])]
    if found["failed"]:
        words.append(f"{len(found['failed'])} failed")
    if found["left_out"]:
        words.append(f"{len(found['left_out'])} left out")
    return ", ".join(words)


def _exceptions(results: Results, engines: list[str]) -> Iterator[str]:
    for engine in engines:
        reasons: dict[str, list[str]] = {}
        for row in results.values():
            for name, reason in row[engine]["left_out"].items() if engine in row else ():
                reasons.setdefault(reason, []).append(name)
        if reasons:
            yield f"\nLeft out under `{engine}`:\n"
        for reason, names in sorted(reasons.items()):
            spelled = ", ".join(sorted(_words(name) for name in names))
            yield f"- {reason}: {spelled}"


def _words(name: str) -> str:
    return name.removeprefix("test_").replace("_", " ")


def load() -> Results:
    """Return the recorded results."""
    with open(RESULTS, encoding="utf-8") as file:
        found: Results = json.load(file)
    return found


def main() -> int:
    """Read new results if there are any, and write the page or compare it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("file", nargs="*", help="results of pytest --junitxml")
    parser.add_argument("--check", action="store_true", help="only compare")
    options = parser.parse_args()
    results: Results = load() if os.path.exists(RESULTS) else {}
    for path in options.file:
        read(path, results)
    text = page(results)
    if options.check:
        with open(PAGE, encoding="utf-8") as file:
            same = file.read() == text
        return 0 if same else 1
    with open(RESULTS, "w", encoding="utf-8") as file:
        json.dump(results, file, indent=1, sort_keys=True, ensure_ascii=False)
        file.write("\n")
    with open(PAGE, "w", encoding="utf-8") as file:
        file.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
