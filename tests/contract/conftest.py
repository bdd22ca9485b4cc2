"""Fixtures of the contract tests: every test runs on every engine in ENGINES."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

import pytest

from tests.contract.harness import AppPot, Engine
from tests.processes import become_subreaper, descendants

if TYPE_CHECKING:
    from collections.abc import Iterator

# APPPOT_TEST_ENGINES=uml,tcg,kvm says on which engines every test of this folder runs.
ENGINES = tuple(map(Engine, os.environ.get("APPPOT_TEST_ENGINES", "uml").split(",")))
IMAGE = os.environ.get("APPPOT_TEST_IMAGE", "debian:bookworm")
# What the command line under test gets from the caller's environment, and nothing else.
_PASSED_ON = ("PATH", "HOME", "LANG", "PYTHONPATH", "APPPOT_KIT", "APPPOT_STORE", "APPPOT_CACHE")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what an engine does not have, and say why."""
    for item in items:
        mark = item.get_closest_marker("only_on")
        call = getattr(item, "callspec", None)
        engine = call.params.get("engine") if call else None
        if mark and engine and engine.name not in mark.args:
            item.add_marker(pytest.mark.skip(reason=mark.kwargs["reason"]))


def environment() -> dict[str, str]:
    """Return the environment that every `apppot` under test starts with."""
    return {name: os.environ[name] for name in _PASSED_ON if name in os.environ}


@pytest.fixture(scope="session", autouse=True)
def _site() -> None:
    """Fail with one clear message if the kit or the image is missing."""
    become_subreaper()
    for verb in (["kit", "show"], ["inspect", IMAGE]):
        words = [sys.executable, "-m", "apppot", *verb]
        done = subprocess.run(words, capture_output=True, env=environment(), check=False)
        if done.returncode:
            pytest.fail(
                "the contract tests need a kit and the image "
                f"{IMAGE}; set APPPOT_KIT and APPPOT_STORE, or run ./setup:\n"
                f"apppot {' '.join(verb)}: {done.stderr.decode()}",
                pytrace=False,
            )


@pytest.fixture(params=ENGINES, ids=lambda engine: engine.name, scope="session")
def engine(request: pytest.FixtureRequest) -> Engine:
    found: Engine = request.param
    return found


def _make(engine: Engine) -> AppPot:
    folder = tempfile.mkdtemp(prefix="apppot-contract-")
    made = AppPot(engine, IMAGE, folder, environment(), others=tuple(descendants()))
    os.mkdir(made.job)
    os.mkdir(made.scratch)
    os.mkdir(made.runtime, 0o700)
    return made.having(
        TMPDIR=made.scratch, APPPOT_RUNTIME_DIR=made.runtime, APPPOT_ENGINE=engine.name
    )


@pytest.fixture
def apppot(engine: Engine) -> Iterator[AppPot]:
    """Give the command line with folders of its own; nothing may be left in them."""
    made = _make(engine)
    yield made
    try:
        made.assert_clean()
    finally:
        shutil.rmtree(made.folder)


@pytest.fixture(scope="module")
def shared_apppot(engine: Engine) -> Iterator[AppPot]:
    """Give one set of folders to all tests of a module."""
    made = _make(engine)
    yield made
    try:
        made.assert_clean()
    finally:
        shutil.rmtree(made.folder)
