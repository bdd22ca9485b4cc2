"""The completion script for bash, driven as the shell drives it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from apppot.cli import VERBS

if TYPE_CHECKING:
    from pathlib import Path

# What bash does before it calls a completion function, and how it shows what it got.
_DRIVE = """\
eval "$(apppot completion bash)"
COMP_WORDS=("$@")
COMP_CWORD=$(($# - 1))
_apppot
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """Return a folder with an `apppot` that runs the code under test, and a fake store and run."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    command = bin_folder / "apppot"
    command.write_text(f"""#!/bin/sh
case "$1 $2" in
    'images --quiet') printf '%s\\n' debian:bookworm debian:trixie heat:1;;
    'ps --quiet') printf '%s\\n' 0a1b2c3d 0a9b8c7d;;
    *) exec {sys.executable} -m apppot "$@";;
esac
""")
    command.chmod(0o755)
    (tmp_path / "work").mkdir()
    return tmp_path


def complete(home: Path, *words: str) -> set[str]:
    done = subprocess.run(
        ["bash", "-uc", _DRIVE, "bash", "apppot", *words],
        env={"PATH": f"{home}/bin:{os.environ['PATH']}", "HOME": str(home)},
        cwd=home / "work",
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return set(done.stdout.split())


def test_verbs(home: Path) -> None:
    assert complete(home, "") == set(VERBS)
    assert complete(home, "in") == {"inspect"}
    assert complete(home, "nothing") == set()


def test_options(home: Path) -> None:
    assert complete(home, "run", "--net") == {"--network"}
    assert {"--memory", "--cpus", "--bind", "--help"} <= complete(home, "run", "--")
    assert "--follow" in complete(home, "logs", "--")


def test_images_and_machines(home: Path) -> None:
    assert complete(home, "run", "debian:") == {"debian:bookworm", "debian:trixie"}
    assert complete(home, "rm", "heat:1", "debian:b") == {"debian:bookworm"}
    assert complete(home, "exec", "0a1") == {"0a1b2c3d"}


def test_files_where_nothing_else_fits(home: Path) -> None:
    (home / "work" / "input.dat").touch()
    assert complete(home, "run", "heat:1", "./inp") == {"./input.dat"}
    assert complete(home, "run", "heat:1", "inp") == {"input.dat"}
    assert complete(home, "run", "heat:1", "nothing") == set()


def test_names_come_from_verbs_that_exist() -> None:
    # The script asks for these; a verb without --quiet would complete to nothing, silently.
    from apppot.cli.parser import verb_parser

    for verb in ("images", "ps"):
        assert "--quiet" in verb_parser(verb)[1]._option_string_actions


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_every_shell_accepts_its_script(shell: str) -> None:
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    words = [sys.executable, "-m", "apppot", "completion", shell]
    script = subprocess.run(words, capture_output=True, check=True).stdout
    assert b"apppot" in script
    subprocess.run([shell, "-n"], input=script, check=True)
