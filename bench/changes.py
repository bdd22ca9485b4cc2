#!/usr/bin/env python3
"""What changes cost: `bench/changes.py IMAGE ARCHIVE.tar` (such as the files of an installation).

Start-up without and with changes of several sizes, in turn; the time and size of a changes file
against tar and `tar | zstd -9`. Prints JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time

from apppot.image import changes, erofs, store


def timed(words: list[str]) -> float:
    """Return how long a command takes, in seconds."""
    began = time.perf_counter()
    subprocess.run(words, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    return time.perf_counter() - began


def random_changes(folder: str, image: str, size: int) -> str:
    """Write a changes file of one incompressible file."""
    path = os.path.join(folder, f"{size}.changes")
    with tempfile.TemporaryFile(dir=folder) as content, tempfile.TemporaryFile(dir=folder) as tar:
        for _ in range(size >> 20):
            content.write(os.urandom(1 << 20))
        content.seek(0)
        with tarfile.open(fileobj=tar, mode="w") as out:
            member = tarfile.TarInfo("data")
            member.size = size
            out.addfile(member, content)
        tar.seek(0)
        changes.write(path, tar, changes.base_of(store.resolve(image)), {}, level=changes.FASTEST)
    return path


def starts(image: str, files: dict[str, str], rounds: int) -> dict[str, float]:
    """Return the median start-up time for each changes file ('' is none)."""
    times: dict[str, list[float]] = {name: [] for name in files}
    plain = [sys.executable, "-m", "apppot", "run", "--network", "none", "--no-job-dir"]
    for _ in range(rounds):
        for name, path in files.items():
            extra = ["--changes", path] if path else []
            times[name].append(timed([*plain, *extra, image, "--", "true"]))
    return {name: statistics.median(found) for name, found in times.items()}


def saving(image: str, archive: str, folder: str) -> dict[str, float]:
    """Return times and sizes of tar, zstd, a layer for the store, and a changes file."""
    found: dict[str, float] = {}
    tree = os.path.join(folder, "tree")
    os.mkdir(tree)
    subprocess.run(["tar", "-C", tree, "-xf", archive], check=True)
    copy = os.path.join(folder, "copy.tar")
    found["tar_seconds"] = timed(["tar", "-C", tree, "-cf", copy, "."])
    found["zstd_seconds"] = timed(["zstd", "-9", "-q", "-f", copy, "-o", f"{copy}.zst"])
    found["zstd_bytes"] = os.path.getsize(f"{copy}.zst")
    found["original_seconds"] = timed(
        ["tar", "-C", tree, "--listed-incremental", f"{copy}.snar", "-czf", f"{copy}.gz", "."]
    )
    found["original_bytes"] = os.path.getsize(f"{copy}.gz")
    layer = os.path.join(folder, "layer")
    with open(copy, "rb") as file:
        began = time.perf_counter()
        erofs.make(file, layer)
        found["layer_seconds"] = time.perf_counter() - began
        file.seek(0)
        began = time.perf_counter()
        path = os.path.join(folder, "saved.changes")
        made = changes.write(path, file, changes.base_of(store.resolve(image)), {})
        found["changes_seconds"] = time.perf_counter() - began
    found["changes_bytes"] = made.size
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("image")
    parser.add_argument("archive")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--sizes", type=int, nargs="*", default=[10, 2048], help="MiB")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        files = {"none": ""}
        for size in options.sizes:
            files[f"{size} MiB"] = random_changes(folder, options.image, size << 20)
        result = {
            "starts_seconds": starts(options.image, files, options.rounds),
            "saving": saving(options.image, options.archive, folder),
        }
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
