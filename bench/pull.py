"""Images come from a registry on loopback: the time, the memory, and the first run afterwards."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import tarfile
import tempfile
from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING

from bench.images import apppot, need, ratio, registry
from bench.launch import launch
from bench.peers import APPPOT, PODMAN
from bench.series import Sample, Section, take_turns

if TYPE_CHECKING:
    from bench.measures import Bench

FILES = 10_000
MEAN_SIZE = 40_000
MEGABYTE = 10**6
OTHERS = "skopeo and umoci"
TIME = "/usr/bin/time"
FIRST, LATER = "first run after a pull", "second run"


def pull(bench: Bench) -> list[Section]:
    """Pull the same image with each, in turn, into a new folder."""
    need("docker-registry", "skopeo", "umoci", TIME)
    with tempfile.TemporaryDirectory(dir=bench.work) as folder, registry(folder) as address:
        image, size = publish(folder, address)
        section = Section("Pull from a registry on loopback", "s", baseline=PODMAN, digits=2)
        section.note = f"{size / MEGABYTE:.0f} MB, compressed; {FILES} files"
        peaks: dict[str, list[float]] = {}
        cases = {
            name: partial(_timed, bench, name, image, peaks)
            for name in (APPPOT, PODMAN, OTHERS)
            if name != PODMAN or shutil.which(PODMAN)
        }
        take_turns(section, cases, max(3, bench.runs // 6), bench.said)
    section.times_baseline(APPPOT, most=1.2)
    memory = Section("Memory of a pull, the biggest process", "MB", digits=0)
    memory.samples = {k: Sample(tuple(v)) for k, v in peaks.items() if k in section.samples}
    memory.at_most(APPPOT, 200)
    return [section, memory]


def fill(root: str) -> None:
    """Make files of the sizes of a system's, which gzip makes less than half of."""
    chance = random.Random(1)
    words = [chance.randbytes(6) + bytes(chance.randrange(16)) for _ in range(20_000)]
    archive = BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for number in range(FILES):
            size = int(chance.expovariate(1 / MEAN_SIZE))
            data = b"".join(chance.choices(words, k=size // 12))
            info = tarfile.TarInfo(f"usr/d{number % 97}/e{number % 31}/file-{number}")
            info.size = len(data)
            tar.addfile(info, BytesIO(data))
    subprocess.run(["tar", "-C", root, "-xf", "-"], input=archive.getvalue(), check=True)


def _quiet(words: list[str]) -> None:
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL)


def publish(folder: str, address: str) -> tuple[str, int]:
    """Put an image into a registry with other programs; return its name and compressed size."""
    layout, bundle = f"{folder}/layout", f"{folder}/bundle"
    launch(["umoci", "init", "--layout", layout])
    launch(["umoci", "new", "--image", f"{layout}:1"])
    launch(["umoci", "unpack", "--image", f"{layout}:1", bundle])
    fill(f"{bundle}/rootfs")
    launch(["umoci", "repack", "--image", f"{layout}:1", bundle])
    name = f"{address}/bench/pull:1"
    words = ["skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{layout}:1"]
    launch([*words, f"docker://{name}"])
    blobs = f"{layout}/blobs/sha256"
    return name, max(os.path.getsize(os.path.join(blobs, blob)) for blob in os.listdir(blobs))


def command(bench: Bench, which: str, image: str, folder: str) -> list[str]:
    """Return the command that pulls into a new folder."""
    if which == APPPOT:
        store = f"APPPOT_STORE={folder}/store"
        return ["env", store, bench.apppot, "pull", "-q", "--plain-http", image]
    if which == PODMAN:
        own = ["podman", "--root", f"{folder}/root", "--runroot", f"{folder}/run"]
        return [*own, "pull", "-q", "--tls-verify=false", image]
    script = (
        f"skopeo copy -q --src-tls-verify=false docker://{image} oci:{folder}/layout:1"
        f" && umoci unpack --image {folder}/layout:1 {folder}/bundle"
    )
    return ["sh", "-c", script]


def _timed(bench: Bench, which: str, image: str, peaks: dict[str, list[float]]) -> float:
    """Return the seconds of a pull, and note its memory."""
    folder = tempfile.mkdtemp(prefix="ap", dir="/tmp")  # podman wants short names
    figures = f"{folder}/time"
    try:
        words = [TIME, "-q", "-f", "%M", "-o", figures]
        seconds = launch([*words, *command(bench, which, image, folder)]).seconds
        with open(figures, encoding="ascii") as file:
            peaks.setdefault(which, []).append(int(file.read()) * 1024 / MEGABYTE)
        return seconds
    finally:
        subprocess.run(["umount", "-l", f"{folder}/root/overlay"], capture_output=True, check=False)
        shutil.rmtree(folder, ignore_errors=True)


def first_run(bench: Bench) -> list[Section]:
    """Run for the first time after a pull, and again; all layers are read before each run."""
    section = Section("Start of `true` after a pull", "ms", baseline=LATER)
    section.note = (
        "without a network; the layers are read before each run, so that caches are equal"
    )
    with tempfile.TemporaryDirectory(dir=bench.work) as folder, registry(folder) as address:
        image = f"{address}/bench/first:1"
        apppot(bench, "push", "--plain-http", bench.image, image)
        cases = {
            FIRST: partial(_start, bench, image, fresh=True),
            LATER: partial(_start, bench, image, fresh=False),
        }
        take_turns(section, cases, max(5, bench.runs // 3), bench.said)
    ratio(section, FIRST, LATER, 1.1)
    return [section]


def _start(bench: Bench, image: str, *, fresh: bool) -> float:
    store = os.path.join(bench.work, "store")
    own = {"APPPOT_STORE": store}  # alone: a layer that another store has would not be fetched
    if fresh:
        launch(["rm", "-rf", store])
        launch([bench.apppot, "pull", "-q", "--plain-http", image], extra=own)
    blobs = os.path.join(store, "blobs", "sha256")
    launch(["sh", "-c", f"cat {blobs}/* >/dev/null"])
    words = ["run", "--network", "none", "--no-job-dir", image, "--", "true"]
    return 1e3 * launch([bench.apppot, *words], extra=own).seconds
