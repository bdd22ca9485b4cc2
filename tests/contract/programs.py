"""The programs of tests/programs, compiled to run in a machine."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.contract.harness import AppPot

_FOLDER = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "programs")


def compiled(apppot: AppPot, name: str, standard: str = "c17") -> str:
    """Compile a program into the job folder; return how it is called there."""
    if not shutil.which("gcc"):
        pytest.skip("gcc is needed to compile a test program")
    words = ["gcc", f"-std={standard}", "-O2", "-static", "-pthread", "-o", apppot.path(name)]
    subprocess.run([*words, os.path.join(_FOLDER, f"{name}.c")], check=True)
    return f"./{name}"
