"""The command line of 'apppot build' with a store and a context of its own."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from apppot import paths
from tests.contract.conftest import IMAGE
from tests.contract.harness import PATIENCE

if TYPE_CHECKING:
    from tests.contract.harness import AppPot, Ended


@dataclass(frozen=True)
class Builder:
    """The command line with a store of its own, and a context in the job folder."""

    apppot: AppPot

    def write(self, **files: str) -> None:
        """Write files of the context; `__` in a name is a slash."""
        for name, text in files.items():
            path = self.path(name)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)

    def path(self, name: str) -> str:
        return self.apppot.path(name.replace("__", "/"))

    def words(self, *options: str) -> list[Any]:
        return self.apppot.verb("build", "--network", "none", "-t", "made", *options, ".")

    def build(self, text: str, *options: str, stdin: bytes = b"") -> Ended:
        self.write(Containerfile=f"ARG BASE={IMAGE}\n{text}")
        return self.apppot.call(self.words(*options), stdin=stdin, timeout=4 * PATIENCE)

    def good(self, text: str, *options: str) -> str:
        """Build, and return what was said."""
        done = self.build(text, *options)
        assert done.status == 0, done.complaint
        assert re.fullmatch(r"made:latest sha256:[0-9a-f]{64}\n", done.text)
        return done.complaint

    def run(self, script: str, image: str = "made") -> str:
        words = ("run", *self.apppot.engine.options, "--root", "--network", "none", "--no-job-dir")
        done = self.apppot.call(self.apppot.verb(*words, image, "--", "sh", "-c", script))
        assert done.status == 0, done.complaint
        return done.text

    def config(self) -> dict[str, Any]:
        done = self.apppot.call(self.apppot.verb("inspect", "made"))
        found: dict[str, Any] = json.loads(done.stdout)
        return found


@pytest.fixture
def builder(apppot: AppPot) -> Builder:
    store = os.path.join(apppot.folder, "store")
    return Builder(apppot.having(APPPOT_STORE=":".join((store, *paths.store_dirs()))))


def cached(said: str) -> list[bool]:
    """Return of each step that can be cached whether it was."""
    lines = said.splitlines()
    return [line == "  cached" for line in lines if re.fullmatch(r"  (cached|[0-9.]+ s)", line)]
