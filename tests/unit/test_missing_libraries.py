"""Where a library is missing, the user is told which, without a traceback."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# As on a node that has nothing but Python: the libraries beside the standard ones are not found.
WITHOUT = (
    "import sys\n"
    "for name in ('qemu', 'urllib3'): sys.modules[name] = None\n"
    "from apppot.__main__ import entry; entry()"
)


@pytest.mark.parametrize(
    ("words", "status", "library"),
    [
        (["restore", "/nonexistent"], 125, "qemu"),
        (["pull", "127.0.0.1:1/x:1"], 1, "urllib3"),
    ],
)
def test_the_library_is_named(words: list[str], status: int, library: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT, *words],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.path.join(ROOT, "src")},
        check=False,
    )
    assert done.returncode == status, done.stderr
    first, hint = done.stderr.splitlines()
    assert first == f"apppot: this needs the Python library '{library}', which is not here"
    assert "pip" in hint
