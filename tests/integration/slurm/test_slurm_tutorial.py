"""The tutorials' commands, run in their order; what they print is what the page says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.integration.slurm import cluster

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(__file__))))
PAGES = os.path.join(_ROOT, "docs", "tutorial")


@dataclass(frozen=True)
class Tutorial:
    """A page, its reader's folder, and what she has in it before she goes to the cluster."""

    page: str
    folder: str
    made: frozenset[str]


TUTORIALS = (
    Tutorial(
        "index.md",
        "heat",
        frozenset(("heat.c", "heat", "complaint", "report.json", "result")),
    ),
    Tutorial(
        "containerfile.md",
        "pi",
        frozenset(("pi.c", "table.sh", "Containerfile", ".dockerignore", "Wrong", "complaint")),
    ),
)


@dataclass(frozen=True)
class Step:
    """Commands of the page, and what they print if the page says so."""

    commands: str
    on_cluster: bool
    output: str | None


def steps(tutorial: Tutorial) -> list[Step]:
    """Return a page's steps."""
    with open(os.path.join(PAGES, tutorial.page), encoding="utf-8") as file:
        blocks = re.findall(
            r"^```(\w+)( slurm)?\n(.*?)^```$", file.read(), re.DOTALL | re.MULTILINE
        )
    found: list[Step] = []
    for language, slurm, text in blocks:
        if language == "sh":
            found.append(Step(text, bool(slurm), None))
        else:
            assert language == "text"
            assert found[-1].output is None
            found[-1] = Step(found[-1].commands, found[-1].on_cluster, text)
    return found


@dataclass(frozen=True)
class Site:
    """Where the reader works: her folder, and a store with the image that she has made."""

    folder: str
    store: str
    tutorial: Tutorial


def _run(step: Step, folder: str, environment: Mapping[str, str], user: tuple[str, ...]) -> str:
    done = subprocess.run(
        [*user, "bash", "-euo", "pipefail", "-c", step.commands],
        cwd=folder,
        env=dict(environment),
        stdout=subprocess.PIPE,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, step.commands
    return done.stdout


@pytest.fixture(scope="module", params=TUTORIALS, ids=lambda tutorial: tutorial.folder)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    """Follow a page up to the cluster."""
    tutorial: Tutorial = request.param
    base = tempfile.mkdtemp(prefix="apppot-tutorial-")
    try:
        made = Site(os.path.join(base, "home"), os.path.join(base, "store"), tutorial)
        os.mkdir(made.folder)
        command = os.path.join(base, "apppot")
        with open(command, "w", encoding="utf-8") as file:
            file.write(f'#!/bin/sh\nexec {sys.executable} -m apppot "$@"\n')
            os.fchmod(file.fileno(), 0o755)
        environment = {
            **os.environ,
            "PATH": f"{base}:{os.environ['PATH']}",
            "APPPOT_STORE": made.store,
        }
        for step in steps(tutorial):
            if not step.on_cluster:
                folder = os.path.join(made.folder, tutorial.folder)
                where = folder if os.path.isdir(folder) else made.folder
                output = _run(step, where, environment, ())
                assert step.output is None or output == step.output, step.commands
        yield made
    finally:
        shutil.rmtree(base)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_on_the_own_computer(site: Site) -> None:
    # The fixture has run it all. What is left in the folder is what the page has made there.
    there = os.listdir(os.path.join(site.folder, site.tutorial.folder))
    assert set(there) == site.tutorial.made


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_on_the_cluster(site: Site) -> None:
    reason = cluster.missing()
    if reason:
        pytest.skip(f"no Slurm cluster: {reason}")
    from apppot import kit

    with cluster.running(kit.find().path, site.store) as slurm:
        folder = os.path.join(slurm.new_folder(), site.tutorial.folder)
        shutil.copytree(os.path.join(site.folder, site.tutorial.folder), folder)
        slurm.give(folder)
        for step in steps(site.tutorial):
            if step.on_cluster:
                output = _run(step, folder, slurm.environment, slurm.as_user_words)
                assert step.output is None or output == step.output, step.commands
        assert slurm.left() == []


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda tutorial: tutorial.folder)
def test_every_step_is_run(tutorial: Tutorial) -> None:
    found = steps(tutorial)
    assert sum(not step.on_cluster for step in found) >= 5
    assert sum(step.on_cluster for step in found) >= 1
    assert sum(step.output is not None for step in found) >= 5
