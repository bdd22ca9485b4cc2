"""Time the build of a ten-step Containerfile, beside buildah: `python3 -m bench.builds`.

Both start from the same root file system. In each turn both build once without their caches, one
after the other, and AppPot once more with everything cached. buildah runs with `--isolation
chroot`, the quickest way that it has, and as root if that is who calls: rootless it is slower. With
`--layers` it makes a layer and a cache entry for each step, as AppPot does.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field

from bench.peers import export

BASE = "localhost/apppot-bench:base"
FILES = 200
STEPS = """FROM {base}
ENV LC_ALL=C.UTF-8
WORKDIR /srv/app
COPY . ./
RUN mkdir /opt/data && for i in $(seq 200); do echo "$i" >/opt/data/$i; done
RUN useradd -m tester && echo done >/etc/tester
COPY file-1 /etc/app.conf
RUN find /srv/app -type f -print0 | xargs -0 sha256sum >/srv/sums
RUN rm -r /usr/share/doc /usr/share/man || true
CMD ["/bin/true"]
"""


@dataclass
class Times:
    """Seconds of one tool's builds."""

    name: str
    values: list[float] = field(default_factory=list)

    def line(self) -> str:
        """Return a row of a table."""
        low, high = min(self.values), max(self.values)
        return f"| {self.name} | {statistics.median(self.values):.2f} | {low:.2f} to {high:.2f} |"


def main() -> int:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="bench.builds", description=__doc__)
    parser.add_argument("--image", default="debian:bookworm", help="to begin from")
    parser.add_argument("--turns", type=int, default=5, help="how often (5)")
    parser.add_argument("--storage-driver", default="overlay", help="of buildah (overlay)")
    options = parser.parse_args()
    apppot = os.path.join(os.path.dirname(sys.executable), "apppot")
    with tempfile.TemporaryDirectory(prefix="apppot-bench-", dir="/var/tmp") as work:
        context = os.path.join(work, "context")
        _context(context)
        own = [apppot, "build", "--network", "none", "-q", "-t", "bench-build", context]
        other = _buildah(apppot, options.image, work, options.storage_driver)
        _write(context, options.image, BASE)
        ours, cached = Times("apppot build"), Times("apppot build, all cached")
        theirs, layered = Times("buildah bud"), Times("buildah bud --layers")
        for _ in range(options.turns):
            ours.values.append(_timed([*own[:2], "--no-cache", *own[2:]]))
            cached.values.append(_timed(own))
            if other:
                words = ["-f", f"{context}/Buildahfile", context]
                theirs.values.append(_timed([*other, *words]))
                layered.values.append(_timed([*other, "--layers", *words]))
        if other:
            for words in (["rm", "-a"], ["rmi", "-af"]):
                _quietly([*_storage(work, options.storage_driver), *words])
    _quietly([apppot, "rm", "bench-build"])
    print("| ten steps | median (s) | from, to |\n| --- | --- | --- |")
    for times in (ours, theirs, layered, cached):
        if times.values:
            print(times.line())
    if theirs.values:
        ratio = statistics.median(ours.values) / statistics.median(theirs.values)
        print(f"\napppot / buildah: {ratio:.2f}")
    return 0


def _context(path: str) -> None:
    os.makedirs(os.path.join(path, "more"))
    for number in range(FILES):
        folder = path if number % 2 else os.path.join(path, "more")
        with open(os.path.join(folder, f"file-{number}"), "wb") as file:
            file.write(os.urandom(25_000))


def _write(context: str, image: str, base: str) -> None:
    for name, begin in (("Containerfile", image), ("Buildahfile", base)):
        with open(os.path.join(context, name), "w", encoding="utf-8") as file:
            file.write(STEPS.format(base=begin))


def _storage(work: str, driver: str) -> list[str]:
    root = os.path.join(work, "containers")
    return ["buildah", "--root", root, "--runroot", f"{root}.run", "--storage-driver", driver]


def _buildah(apppot: str, image: str, work: str, driver: str) -> list[str]:
    """Give buildah the same base; return the words of its build, none if it does not work here."""
    if not shutil.which("buildah"):
        print("buildah is not installed", file=sys.stderr)
        return []
    root = os.path.join(work, "root")
    os.mkdir(root)
    export(apppot, image, root)
    storage = _storage(work, driver)
    made = subprocess.run(
        [*storage, "from", "scratch"], capture_output=True, text=True, check=False
    )
    if made.returncode:
        print(f"buildah does not work here: {made.stderr.strip()}", file=sys.stderr)
        return []
    container = made.stdout.strip()
    for words in (["add", "-q", container, root, "/"], ["commit", "-q", "--rm", container, BASE]):
        subprocess.run([*storage, *words], check=True, stdout=subprocess.DEVNULL)
    shutil.rmtree(root)
    return [*storage, "bud", "--isolation", "chroot", "--no-cache", "-q", "-t", "b"]


def _quietly(words: list[str]) -> None:
    subprocess.run(words, check=False, capture_output=True)


def _timed(words: list[str]) -> float:
    began = time.monotonic()
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"bench: {' '.join(words)}\n{done.stderr}")
    return time.monotonic() - began


if __name__ == "__main__":
    sys.exit(main())
