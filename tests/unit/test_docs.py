"""The documentation and the code say the same."""

from __future__ import annotations

import argparse
import dataclasses
import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from apppot.cli import PAYLOAD_VERBS, VERBS
from apppot.cli.parser import verb_parser
from apppot.errors import ExitStatus

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DOCS = os.path.join(ROOT, "docs")


def read(*parts: str) -> str:
    with open(os.path.join(ROOT, *parts), encoding="utf-8") as file:
        return file.read()


def files(folder: str, ending: str) -> Iterator[str]:
    for where, folders, names in os.walk(os.path.join(ROOT, folder)):
        folders[:] = [name for name in folders if name not in ("__pycache__", "build")]
        yield from (os.path.join(where, name) for name in names if name.endswith(ending))


PAGES = sorted([os.path.join(ROOT, "README.md"), *files("docs", ".md")])


def test_pages_of_verbs_are_up_to_date() -> None:
    words = [sys.executable, os.path.join(DOCS, "make_reference.py"), "--check"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def _actions(parser: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.Action]]:
    for action in parser._actions:
        yield parser.prog, action
        if isinstance(action, argparse._SubParsersAction):
            for child in action.choices.values():
                yield from _actions(child)


@pytest.mark.parametrize("verb", VERBS)
def test_every_option_is_explained(verb: str) -> None:
    silent = [
        f"{program} {action.dest}"
        for program, action in _actions(verb_parser(verb)[1])
        if not action.help and not isinstance(action, argparse._SubParsersAction)
    ]
    assert silent == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: os.path.relpath(page, ROOT))
def test_links_lead_somewhere(page: str) -> None:
    broken = [
        target
        for target in re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", read(page))
        if not re.match(r"[a-z]+:", target)
        and not os.path.exists(os.path.join(os.path.dirname(page), target))
    ]
    assert broken == []


def test_every_page_is_linked() -> None:
    linked = {
        os.path.normpath(os.path.join(os.path.dirname(page), target))
        for page in PAGES
        for target in re.findall(r"\]\(([^)#\s]+)", read(page))
    }
    decisions = os.path.join(DOCS, "decisions") + os.sep
    first = os.path.join(ROOT, "README.md")
    lost = [page for page in PAGES if page not in linked and not page.startswith(decisions)]
    assert [page for page in lost if page != first] == []


def test_every_verb_and_option_that_pages_use_exists() -> None:
    wrong = []
    for page in PAGES:
        for line in re.findall(r"\bapppot ([a-z]+ [^\n`|]*)", read(page)):
            verb, *words = line.split()
            if verb not in VERBS:
                continue  # a sentence
            known = {name for _, a in _actions(verb_parser(verb)[1]) for name in a.option_strings}
            own = words[: words.index("--")] if "--" in words else words
            used = {word.split("=")[0] for word in own if re.match(r"--[a-z]", word)}
            wrong += [f"{os.path.basename(page)}: {verb} {name}" for name in used - known]
    assert wrong == []


def test_every_variable_is_listed() -> None:
    sources = [*files("src", ".py"), os.path.join(ROOT, "setup"), *files("tests", ".py")]
    used = {name for path in sources for name in re.findall(r"\bAPPPOT_[A-Z_]+\b", read(path))}
    listed = set(re.findall(r"`(APPPOT_[A-Z_]+)", read("docs/reference/environment.md")))
    assert listed == used


def test_every_exit_status_is_listed() -> None:
    page = read("docs/reference/exit-statuses.md")
    listed = set(map(int, re.findall(r"^\| (\d+)(?: \+ N)? ", page, re.MULTILINE)))
    assert {int(status) for status in ExitStatus} <= listed
    assert all(f"`{verb}`" in page or f"`apppot {verb}`" in page for verb in PAYLOAD_VERBS)


def test_sources_of_statuses_are_listed() -> None:
    from apppot.outcome import Source

    for page in ("docs/reference/exit-statuses.md", "docs/reference/report.md"):
        assert all(f"`{source}`" in read(page) for source in Source)


def _keys(value: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, inner in value.items():
        if isinstance(inner, dict):
            yield from _keys(inner, f"{prefix}{key}.")
        else:
            yield prefix + key


def test_every_key_of_the_report_is_listed() -> None:
    from apppot.outcome import Outcome, Source
    from apppot.report import report
    from apppot.run import Finished

    def empty(kind: type, **given: Any) -> Any:
        """Return an object of a dataclass without looking for sensible values."""
        made: Any = object.__new__(kind)
        for field in dataclasses.fields(kind):
            object.__setattr__(made, field.name, given.get(field.name, ()))
        return made

    from apppot.agent.spec import CommandSpec
    from apppot.image.model import Image
    from apppot.machine.model import EngineName, MachineSpec

    outcome = Outcome(0, Source.PAYLOAD, None)
    image, machine, command = empty(Image), empty(MachineSpec), empty(CommandSpec)
    finished = Finished(image, EngineName.UML, machine, command, 0.0, 1.0, outcome)
    rows = re.findall(r"^\| `([a-z_.]+)` \|", read("docs/reference/report.md"), re.MULTILINE)
    assert rows == list(_keys(report(finished)))


def test_every_file_of_the_kit_is_listed() -> None:
    from apppot import kit

    page = read("docs/reference/files.md")
    names = (kit.LINUX, kit.PASST, kit.MKFS_EROFS, kit.MKE2FS, kit.CONFINE, kit.AGENT, kit.MANIFEST)
    assert all(f"`{name}`" in page for name in names)


def test_decisions_have_numbers_of_their_own() -> None:
    numbers = [name.split("-")[0] for name in sorted(os.listdir(os.path.join(DOCS, "decisions")))]
    assert len(set(numbers)) == len(numbers)
    assert all(re.fullmatch(r"\d{3}", number) for number in numbers)
