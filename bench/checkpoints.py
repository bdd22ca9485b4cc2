"""Checkpoints: what they take on the disk, and how long saving and going on take."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.launch import PATIENCE, environment, last_line, launch
from bench.series import CaseError, Sample, Section

if TYPE_CHECKING:
    from bench.measures import Bench

IN_USE = 100_000_000  # bytes of noise, which no packer makes smaller
# It also leaves memory free that was used before, and files in the kernel's caches.
_SCRIPT = f"""
head -c {IN_USE} /dev/urandom >/tmp/kept
head -c {IN_USE} /dev/urandom >/tmp/gone; rm /tmp/gone
cat /usr/bin/* >/dev/null
echo ready; read line; echo on; exit 0
"""
_CHECKPOINTED = 85


@dataclass(frozen=True)
class Taken:
    """One checkpoint: megabytes on disk, seconds to save, seconds until the payload went on."""

    size: float
    save: float
    go_on: float


def checkpoints(bench: Bench) -> list[Section]:
    """Save and restore a machine of 512 MB with 100 MB in use; kvm where it works."""
    note = "512 MB of memory, of which the payload has 100 MB of random bytes in use"
    size = Section("Checkpoint on the disk", "MB", note=note)
    save = Section("Checkpoint, from the request to the end of the run", "s", note=note, digits=2)
    go_on = Section("Restore, from the launch to the payload's next line", "s", note=note, digits=2)
    sections = [size, save, go_on]
    for engine in ("kvm", "tcg"):
        try:
            taken = [_once(bench, engine) for _ in range(max(1, bench.runs // 3))]
        except CaseError as error:
            for section in sections:
                section.missing[engine] = str(error)
            continue
        size.samples[engine] = Sample(tuple(each.size for each in taken))
        save.samples[engine] = Sample(tuple(each.save for each in taken))
        go_on.samples[engine] = Sample(tuple(each.go_on for each in taken))
    size.at_most("tcg", 130)
    save.at_most("tcg", 2)
    go_on.at_most("tcg", 1.5)
    return sections


def _once(bench: Bench, engine: str) -> Taken:
    folder = os.path.join(bench.work, "checkpoint")
    shutil.rmtree(folder, ignore_errors=True)
    words = [bench.apppot, "run", "--engine", engine, "--network", "none", "--memory", "512M"]
    words += ["--checkpoint-dir", folder, "--no-job-dir", bench.image, "--", "sh", "-c", _SCRIPT]
    with _start(words) as run:
        _read_line(run, b"ready\n")
        ident = _machine(bench, run.pid)
        began = time.perf_counter()
        launch([bench.apppot, "checkpoint", "--stop", ident])
        status = run.wait(PATIENCE)
        save = time.perf_counter() - began
    if status != _CHECKPOINTED:
        raise CaseError(f"status {status} instead of {_CHECKPOINTED}")
    size = sum(os.stat(each.path).st_blocks * 512 for each in os.scandir(folder))
    began = time.perf_counter()
    with _start([bench.apppot, "restore", folder]) as run:
        assert run.stdin
        run.stdin.write(b"go\n")
        run.stdin.flush()
        _read_line(run, b"on\n")
        go_on = time.perf_counter() - began
        status = run.wait(PATIENCE)
    shutil.rmtree(folder)
    if status:
        raise CaseError(f"status {status} of the restored run")
    return Taken(size / 1e6, save, go_on)


def _start(words: list[str]) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    return subprocess.Popen(words, env=environment({}), stdin=pipe, stdout=pipe, stderr=pipe)


def _read_line(run: subprocess.Popen[bytes], expected: bytes) -> None:
    assert run.stdout
    assert run.stderr
    if run.stdout.readline() != expected:
        run.terminate()
        raise CaseError(last_line(run.stderr.read()))


def _machine(bench: Bench, pid: int) -> str:
    listed = json.loads(launch([bench.apppot, "ps", "--json"]).stdout)
    return next(str(each["id"]) for each in listed if each["pid"] == pid)
