"""A job folder with apppot-start, as users of the original had it."""

from __future__ import annotations

import os
import shutil
import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.contract import rawdisks

if TYPE_CHECKING:
    from tests.contract.harness import AppPot, Ended


SCRIPT = f"""#!/bin/sh
exec {sys.executable} -m apppot.legacy.start "$@"
"""


LONG = "long" * 40


# Debian's images know these two numbers; a machine gives any other caller the name of the original.
WHO = {0: "root", 65534: "nobody"}.get(os.getuid(), "user")


@pytest.fixture(scope="module")
def site(shared_apppot: AppPot) -> AppPot:
    """Give a job folder with ./apppot-start.sh, and a read-only disk image."""
    root = rawdisks.make_root(shared_apppot, os.path.join(shared_apppot.folder, "root"))
    with open(os.path.join(root, "old"), "w", encoding="utf-8") as file:
        file.write("of the base\n")
    os.makedirs(os.path.join(root, "data"))
    for name in ("keep", "drop"):
        with open(os.path.join(root, "data", name), "w", encoding="utf-8") as file:
            file.write(name)
    image = rawdisks.mke2fs(root, os.path.join(shared_apppot.folder, "base.img"))
    os.chmod(image, 0o444)
    return shared_apppot


@pytest.fixture
def job(site: AppPot) -> AppPot:
    """Give a fresh job folder."""
    folder = os.path.join(site.folder, f"job{time.monotonic_ns()}")
    os.mkdir(folder)
    with open(os.path.join(folder, "apppot-start.sh"), "w", encoding="utf-8") as file:
        file.write(SCRIPT)
        os.fchmod(file.fileno(), 0o755)
    return site.having(cwd=folder, APPPOT_IMAGE=image_of(site))


def image_of(site: AppPot) -> str:
    return os.path.join(site.folder, "base.img")


def start(job: AppPot, *words: str, stdin: bytes = b"") -> Ended:
    return job.call(["./apppot-start.sh", *words], stdin=stdin)


def writable(job: AppPot) -> str:
    path = shutil.copy(image_of(job), job.path("own.img"))
    os.chmod(path, 0o644)
    return path


def put(job: AppPot, name: str, text: str, mode: int = 0o755) -> None:
    with open(job.path(name), "w", encoding="utf-8") as file:
        file.write(text)
        os.fchmod(file.fileno(), mode)
