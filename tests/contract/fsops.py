"""Build `fsops.c`, the program that does file system calls for tests, and talk to it."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.contract.harness import Running

_SOURCE = os.path.join(os.path.dirname(__file__), "fsops.c")


def build(folder: str) -> str:
    """Compile it, static so that it runs in any machine; return its path."""
    made = os.path.join(folder, "fsops")
    compiler = shutil.which("musl-gcc") or shutil.which("gcc")
    assert compiler, "these tests need a C compiler"
    words = [compiler, "-static", "-O1", "-Wall", "-Werror", "-o", made, _SOURCE]
    subprocess.run(words, check=True)
    return made


def ask(running: Running, *words: object) -> str:
    """Have the program in a machine do a call; return what it says."""
    assert running.process.stdin
    running.process.stdin.write(" ".join(map(str, words)).encode() + b"\n")
    return running.expect(b"\n").decode().rstrip("\n")


def finish(running: Running) -> None:
    """Let the program come to its end; all must have been well."""
    assert running.process.stdin
    running.process.stdin.close()
    running.process.stdin = None
    ended = running.wait()
    assert ended.status == 0, ended.complaint
