"""Run the agent's fuzzers for a short while: libFuzzer on its decoders, and live conversations."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SECONDS = os.environ.get("APPPOT_TEST_FUZZ_SECONDS", "5")


def test_the_agent_withstands_random_input(tmp_path: Path) -> None:
    if not shutil.which("clang"):
        pytest.skip("clang is not installed, and libFuzzer comes with it")
    done = subprocess.run(
        [HERE / "run", SECONDS, tmp_path], capture_output=True, text=True, check=False, timeout=600
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
