"""Native, a stock User-Mode Linux and AppPot, side by side: pinned alike, in the same turns."""

from __future__ import annotations

import os
import sys
from functools import partial
from typing import TYPE_CHECKING

from bench.peers import APPPOT, NATIVE, Peer
from bench.series import CaseError, Section, take_turns

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.measures import Bench

STOCK = "stock UML"
APPPOT_FREE = "apppot, as users run it"
STOCK_FREE = "stock UML, not pinned"
_RUNNER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "stock_run.py")
MEMORY = 1024  # MiB, of the machines that are compared


def host_cpus(count: int) -> str:
    """Return the CPUs that all sides are kept on: the last ones that are allowed here."""
    allowed = sorted(os.sched_getaffinity(0))
    if len(allowed) < count:
        raise CaseError(f"this needs {count} CPUs")
    return ",".join(map(str, allowed[-count:]))


def native(bench: Bench, cpus: int = 1, root: str = "") -> Peer:
    """Return the host itself; with `root` its programs are those of that folder."""
    pinned = ("taskset", "-c", host_cpus(cpus))
    if not root:
        return Peer(NATIVE, pinned, job=bench.share)
    # fmt: off
    return Peer(NATIVE, (
        *pinned, "bwrap", "--bind", root, "/", "--proc", "/proc", "--dev", "/dev",
        "--tmpfs", "/tmp", "--bind", bench.share, "/job", "--chdir", "/job", "--die-with-parent",
    ))
    # fmt: on


def ours(
    bench: Bench, cpus: int = 1, image: str = "", memory: int = MEMORY, *, free: bool = False
) -> Peer:
    """Return AppPot; `free` leaves the choice of the host's CPUs to it."""
    pinned = () if free else ("taskset", "-c", host_cpus(cpus))
    words = ("--network", "none", "--cpus", str(cpus), "--memory", f"{memory}M")
    return Peer(
        APPPOT_FREE if free else APPPOT,
        (*pinned, bench.apppot, "run", *words, image or bench.image, "--"),
    )


def stock(
    bench: Bench,
    cpus: int = 1,
    image: str = "",
    memory: int = MEMORY,
    *,
    free: bool = False,
    limit: float = 110,
) -> Peer:
    """Return the stock kernel with the same layers and the same folder; raises CaseError."""
    if bench.stock is None:
        raise CaseError(bench.no_stock)
    kept = () if free else ("--cpus", host_cpus(cpus))
    # fmt: off
    words = (
        sys.executable, _RUNNER, "--kernel", bench.stock.kernel, "--initrd", bench.stock.initrd,
        *(word for path in layers(image or bench.image) for word in ("--layer", path)),
        "--share", bench.share, "--memory", f"{memory}M", "--ncpus", str(cpus),
        "--limit", f"{limit:g}", *kept, "--",
    )
    # fmt: on
    return Peer(STOCK_FREE if free else STOCK, words)


def layers(image: str) -> tuple[str, ...]:
    """Return the paths of an image's layers, which are EROFS files, the lowest first."""
    from apppot.image import store

    return tuple(layer.path for layer in store.resolve(image).layers)


def compare(
    bench: Bench,
    section: Section,
    measure: Callable[[Peer], float],
    *,
    cpus: int = 1,
    image: str = "",
    root: str = "",
    memory: int = MEMORY,
    runs: int = 0,
) -> Section:
    """Fill a section with all three sides; ratios are to native."""
    section.baseline = NATIVE
    peers = [native(bench, cpus, root)]
    try:
        peers.append(stock(bench, cpus, image, memory))
    except CaseError as error:
        section.missing[STOCK] = str(error)
    peers.append(ours(bench, cpus, image, memory))
    cases = {peer.name: partial(measure, peer) for peer in peers}
    take_turns(section, cases, runs or max(3, bench.runs // 3), bench.said)
    return section
