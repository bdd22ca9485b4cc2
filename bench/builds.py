"""A ten-step Containerfile, built by AppPot and by buildah, in turn.

Both start from the same root file system. In each turn both build once without their caches, one
after the other, and AppPot once more with everything cached. buildah runs with `--isolation
chroot`, the quickest way that it has, and as root if that is who calls: rootless it is slower. With
`--layers` it makes a layer and a cache entry for each step, as AppPot does.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from functools import partial
from typing import TYPE_CHECKING

from bench.images import apppot, need, ratio
from bench.launch import launch
from bench.peers import export
from bench.series import CaseError, Section, take_turns

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.measures import Bench

BASE = "localhost/apppot-bench:base"
FILES = 200
BUILD, CACHED = "apppot build", "apppot build, all cached"
BUD, LAYERS = "buildah bud", "buildah bud --layers"
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


def build(bench: Bench) -> list[Section]:
    """Build with each, in turn."""
    with tempfile.TemporaryDirectory(
        prefix="apppot-bench-", dir="/var/tmp", ignore_cleanup_errors=True
    ) as work:
        context = os.path.join(work, "context")
        _context(context)
        _write(context, bench.image, BASE)
        section = Section("Build of a ten-step Containerfile", "s", baseline=BUD, digits=2)
        section.note = "buildah as root, --isolation chroot; all from nothing, and once all cached"
        words = ("build", "--network", "none", "-q", "-t", "bench-build")
        cases: dict[str, Callable[[], float]] = {
            BUILD: lambda: apppot(bench, *words, "--no-cache", context).seconds,
            CACHED: lambda: apppot(bench, *words, context).seconds,
        }
        other: list[str] = []
        try:
            other = _buildah(bench, work)
        except CaseError as error:
            section.missing = {BUD: str(error), LAYERS: str(error)}
        else:
            words_ = [*other, "bud", "--isolation", "chroot", "--no-cache", "-q", "-t", "b"]
            rest = ["-f", f"{context}/Buildahfile", context]
            cases[BUD] = partial(_seconds, [*words_, *rest])
            cases[LAYERS] = partial(_seconds, [*words_, "--layers", *rest])
        try:
            take_turns(section, cases, max(3, bench.runs // 6), bench.said)
        finally:
            for last in (["rm", "-a"], ["rmi", "-af"]) if other else ():
                launch([*other, *last])
    ratio(section, BUILD, BUD, 2)
    section.at_most(CACHED, 0.5)
    return [section]


def _seconds(words: list[str]) -> float:
    return launch(words).seconds


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


def _buildah(bench: Bench, work: str) -> list[str]:
    """Give buildah the same base; return the words of its commands. Raises CaseError."""
    need("buildah")
    root, containers = os.path.join(work, "root"), os.path.join(work, "containers")
    os.mkdir(root)
    export(bench.apppot, bench.image, root)
    storage = ["buildah", "--root", containers, "--runroot", f"{containers}.run"]
    storage += ["--storage-driver", "overlay"]
    container = launch([*storage, "from", "scratch"]).stdout.decode().strip()
    for words in (["add", "-q", container, root, "/"], ["commit", "-q", "--rm", container, BASE]):
        launch([*storage, *words])
    shutil.rmtree(root)
    return storage
