"""Time of a pull from a registry on loopback: AppPot, podman, and skopeo with umoci, in turn.

python -m bench.pull [ROUNDS] as root, with docker-registry, podman, skopeo, umoci and GNU time.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import socket
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from contextlib import contextmanager
from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

FILES = 10_000
MEAN_SIZE = 40_000
MOST_RATIO = 1.2  # of podman's time
MOST_MEMORY = 200 << 20
NAMES = ("apppot", "podman", "skopeo+umoci")


@contextmanager
def registry(folder: str) -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    path = os.path.join(folder, "registry.yml")
    with open(path, "w", encoding="utf-8") as file:
        file.write(
            "version: 0.1\nlog: {level: error}\n"
            f"storage: {{filesystem: {{rootdirectory: {folder}/registry}}}}\n"
            f"http: {{addr: {address}}}\n"
        )
    null = subprocess.DEVNULL
    words = ["docker-registry", "serve", path]
    with subprocess.Popen(words, stdout=null, stderr=null) as server:
        try:
            time.sleep(2)
            yield address
        finally:
            server.terminate()


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


def publish(folder: str, address: str) -> str:
    layout, bundle = f"{folder}/layout", f"{folder}/bundle"
    _quiet(["umoci", "init", "--layout", layout])
    _quiet(["umoci", "new", "--image", f"{layout}:1"])
    _quiet(["umoci", "unpack", "--image", f"{layout}:1", bundle])
    fill(f"{bundle}/rootfs")
    _quiet(["umoci", "repack", "--image", f"{layout}:1", bundle])
    name = f"{address}/bench/pull:1"
    words = ["skopeo", "copy", "-q", "--dest-tls-verify=false", f"oci:{layout}:1"]
    subprocess.run([*words, f"docker://{name}"], check=True)
    return name


def command(which: str, image: str, folder: str) -> list[str]:
    """Return the command that pulls into a new folder."""
    if which == "apppot":
        store = f"APPPOT_STORE={folder}/store"
        return ["env", store, sys.executable, "-m", "apppot", "pull", "-q", "--plain-http", image]
    if which == "podman":
        own = ["podman", "--root", f"{folder}/root", "--runroot", f"{folder}/run"]
        return [*own, "pull", "-q", "--tls-verify=false", image]
    script = (
        f"skopeo copy -q --src-tls-verify=false docker://{image} oci:{folder}/layout:1"
        f" && umoci unpack --image {folder}/layout:1 {folder}/bundle"
    )
    return ["sh", "-c", script]


def measure(which: str, image: str) -> tuple[float, int]:
    """Return seconds and the biggest process's memory in bytes."""
    folder = tempfile.mkdtemp(prefix="ap", dir=os.environ.get("APPPOT_TMPDIR", "/tmp"))
    figures = f"{folder}/time"
    try:
        words = ["/usr/bin/time", "-q", "-f", "%e %M", "-o", figures]
        subprocess.run(
            [*words, *command(which, image, folder)], check=True, stdout=subprocess.DEVNULL
        )
        with open(figures, encoding="ascii") as file:
            seconds, memory = file.read().split()
        return float(seconds), int(memory) << 10
    finally:
        subprocess.run(["umount", "-l", f"{folder}/root/overlay"], capture_output=True, check=False)
        shutil.rmtree(folder, ignore_errors=True)


def main() -> int:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as folder, registry(folder) as address:
        image = publish(folder, address)
        found: dict[str, list[tuple[float, int]]] = {name: [] for name in NAMES}
        for _ in range(rounds):
            for name in NAMES:
                found[name].append(measure(name, image))
    medians = {name: statistics.median(time for time, _ in rows) for name, rows in found.items()}
    memory = {name: max(size for _, size in rows) for name, rows in found.items()}
    print(json.dumps({"seconds": medians, "memory": memory, "runs": found}, indent=1))
    good = medians["apppot"] <= MOST_RATIO * medians["podman"] and memory["apppot"] <= MOST_MEMORY
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
