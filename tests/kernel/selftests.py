"""Build the kernel's selftests once, run them here and in a guest, and compare test by test."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from typing import TYPE_CHECKING

from apppot import paths
from tests.kernel import taps
from tests.kernel.plan import COLLECTIONS, Collection, commands

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

HERE = os.path.dirname(os.path.abspath(__file__))
NEEDED = ("Makefile", "Kbuild", "Kconfig", "arch/x86", "include", "mm", "scripts", "tools", "usr")
NOBODY = "65534"
SECONDS = 3600  # for one collection in the guest, so that a hang ends


def main() -> int:
    """Run what the command line says; 1 if a difference has no known reason."""
    options = _options()
    work = options.work or tempfile.mkdtemp(prefix="selftests-", dir="/var/tmp")
    os.makedirs(work, exist_ok=True)
    os.chmod(work, 0o755)
    print(f"selftests: work in {work}", file=sys.stderr)
    known = _reasons()
    counts: Counter[tuple[str, str]] = Counter()
    rows: list[tuple[str, taps.Difference, str]] = []
    for collection in COLLECTIONS:
        if options.collections and collection.folder not in options.collections:
            continue
        rows += [
            (collection.folder, difference, taps.reason(difference, known))
            for difference in _compare(collection, work, options, counts)
        ]
    _show(rows, counts)
    return 1 if any(not why for _, _, why in rows) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="tests/kernel/run", description=__doc__)
    parser.add_argument("collections", nargs="*", metavar="COLLECTION", help="all unless given")
    parser.add_argument("--source", help="a kernel's tree, or its archive; the kit's own if not")
    parser.add_argument("--image", default="debian:bookworm", help="has this computer's C library")
    parser.add_argument("--cpus", default="2", help="the guest's virtual CPUs (2)")
    parser.add_argument("--memory", default="2G", help="the guest's memory (2G)")
    parser.add_argument("--work", help="folder for programs and outputs; kept")
    parser.add_argument("--seconds", default="120", help="what one test may take (120)")
    parser.add_argument(
        "--side", choices=("native", "guest", "none"), help="run that one only again"
    )
    return parser.parse_args()


def _reasons() -> list[taps.Reason]:
    with open(os.path.join(HERE, "differences.toml"), "rb") as stream:
        rows: list[dict[str, str]] = tomllib.load(stream)["difference"]
    return [
        taps.Reason(
            row["program"],
            row.get("test", ".*"),
            row["why"],
            row.get("guest", ""),
            row.get("native", ""),
        )
        for row in rows
    ]


def _compare(
    collection: Collection, work: str, options: argparse.Namespace, counts: Counter[tuple[str, str]]
) -> Iterator[taps.Difference]:
    """Build and run one collection; yields what differs, and counts all results."""
    programs = _build(collection, work, options.source)
    tests = commands(collection, _names(programs))
    outputs = {
        side: os.path.join(work, "out", side, collection.folder) for side in ("native", "guest")
    }
    for side, output in outputs.items():
        if options.side in (None, side):
            print(f"selftests: {collection.folder}: {len(tests)} tests, {side}", file=sys.stderr)
            _run(side, collection, programs, output, tests, options)
    for name in tests:
        native, guest = (_results(outputs[side], name) for side in ("native", "guest"))
        counts.update(("native", result) for result in native.values())
        counts.update(("guest", result) for result in guest.values())
        yield from taps.differences(name, native, guest)


def _results(output: str, name: str) -> dict[str, taps.Result]:
    try:
        with open(os.path.join(output, f"{name}.status"), encoding="ascii") as stream:
            status = int(stream.read())
    except (OSError, ValueError):
        return {taps.PROGRAM: taps.Result.ABSENT}
    path = os.path.join(output, f"{name}.out")
    with open(path, encoding="utf-8", errors="replace") as stream:
        return taps.results(stream.read(), status)


def _names(folder: str) -> list[str]:
    """Return the compiled programs in a folder."""
    found = []
    for name in os.listdir(folder):
        path = os.path.join(folder, name)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            with open(path, "rb") as stream:
                if stream.read(4) == b"\x7fELF":
                    found.append(name)
    return found


def _build(collection: Collection, work: str, source: str | None) -> str:
    """Compile a collection, unless that is done; returns the folder of its programs."""
    build = os.path.join(work, "build")
    folder = os.path.join(build, "kselftest", collection.folder)
    if not os.path.isdir(folder):
        tree = _tree(work, source)
        log = os.path.join(work, "build.log")
        targets = f"TARGETS={collection.folder}"
        _logged(["make", "-s", "ARCH=x86", f"O={build}", "headers"], tree, log)
        _logged(
            ["make", "-s", "-C", "tools/testing/selftests", "ARCH=x86_64", f"O={build}", targets],
            tree,
            log,
        )
    return folder


def _tree(work: str, source: str | None) -> str:
    """Return the kernel's tree; unpacks it from the package in the kit's build cache if need be."""
    if source and os.path.isdir(source):
        return os.path.abspath(source)
    tree = os.path.join(work, "source")
    if not os.path.isdir(tree):
        archive = source or _cached()
        os.mkdir(tree)
        if archive.endswith(".deb"):
            _logged(["dpkg-deb", "-x", archive, os.path.join(work, "package")], work, os.devnull)
            folder = os.path.join(work, "package", "usr", "src")
            archive = next(e.path for e in os.scandir(folder) if ".tar." in e.name)
        patterns = [f"*/{name}" for name in NEEDED]
        _logged(
            [
                *("tar", "-xf", os.path.abspath(archive), "-C", tree, "--strip-components=1"),
                *("--no-same-owner", "--wildcards", "--no-wildcards-match-slash", *patterns),
            ],
            work,
            os.devnull,
        )
    return tree


def _cached() -> str:
    """Return the kernel's package that `apppot kit build` has fetched last."""
    folder = os.path.join(paths.cache_dir(), "build", "sources")
    found = [
        os.path.join(where, name)
        for where, _, names in os.walk(folder)
        for name in names
        if name.startswith("linux-source-")
    ]
    if not found:
        sys.exit(f"selftests: no kernel source below {folder}; name one with --source")
    return max(found, key=os.path.getmtime)


def _logged(command: Sequence[str], folder: str, log: str) -> None:
    with open(log, "ab") as stream:
        done = subprocess.run(command, cwd=folder, stdout=stream, stderr=stream, check=False)
    # Some programs of a collection may lack a library: the others are run.
    if done.returncode and "selftests" not in " ".join(command):
        sys.exit(f"selftests: {' '.join(command)}: exit status {done.returncode}, see {log}")


def _run(
    side: str,
    collection: Collection,
    programs: str,
    output: str,
    tests: dict[str, str],
    options: argparse.Namespace,
) -> None:
    """Run a collection's tests on one side; their outputs and exit statuses go into a folder."""
    os.makedirs(output, exist_ok=True)
    for entry in os.scandir(output):
        os.unlink(entry.path)
    words = ["sh", os.path.join(HERE, "inside"), programs, output]
    if collection.ordinary and os.getuid() == 0:
        words += ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    environment = {**os.environ, "TEST_SECONDS": options.seconds}
    if side == "guest":
        binds = {HERE: "ro", programs: "ro", output: "rw"}
        words = [
            *(sys.executable, "-m", "apppot", "run", "--network", "none", "--cpus", options.cpus),
            *("--memory", options.memory, "--no-job-dir", "--workdir", "/"),
            *(
                f"--bind={path}:{path}" + (":ro" if how == "ro" else "")
                for path, how in binds.items()
            ),
            *("--env", f"TEST_SECONDS={options.seconds}"),
            *(("--root",) if os.getuid() == 0 else ()),
            *(options.image, "--", *words),
        ]
    text = "".join(f"{name}\t{command}\n" for name, command in tests.items())
    try:
        subprocess.run(
            words, input=text.encode(), env=environment, timeout=SECONDS, cwd="/", check=True
        )
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        print(f"selftests: {collection.folder}, {side}: {error}", file=sys.stderr)


def _show(rows: list[tuple[str, taps.Difference, str]], counts: Counter[tuple[str, str]]) -> None:
    for side in ("native", "guest"):
        row = ", ".join(
            f"{counts[side, each]} {each}" for each in taps.Result if counts[side, each]
        )
        print(f"{side}: {row}")
    print("\n| program | test | native | guest | why |\n| --- | --- | --- | --- | --- |")
    for folder, each, why in rows:
        print(
            f"| {folder}/{each.program} | {each.test} | {each.native} | {each.guest} "
            f"| {why or '**not known**'} |"
        )
    unknown = sum(1 for _, _, why in rows if not why)
    print(f"\n{len(rows)} tests differ, {unknown} of them for no known reason")


if __name__ == "__main__":
    sys.exit(main())
