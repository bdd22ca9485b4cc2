"""What the measures of images share: a store of their own, a registry, archives of images."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from bench.launch import Run, environment, launch
from bench.series import CaseError, Goal, Sample, Section

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.measures import Bench

OFFLINE = ("--network", "none")


def store(bench: Bench) -> dict[str, str]:
    """Return the environment in which images are made in a store of the benchmark's."""
    from apppot import paths

    return {"APPPOT_STORE": ":".join((os.path.join(bench.work, "store"), *paths.store_dirs()))}


def apppot(bench: Bench, *words: str) -> Run:
    """Run AppPot with that store, in the shared folder."""
    return launch([bench.apppot, *words], extra=store(bench), cwd=bench.share)


def run(bench: Bench, options: tuple[str, ...], image: str, script: str) -> Run:
    """Run a shell's script in a machine, as root and without a network."""
    return apppot(bench, "run", *OFFLINE, "--root", *options, image, "--", "sh", "-c", script)


def need(*programs: str) -> None:
    """Raise CaseError if a program is not installed."""
    missing = [name for name in programs if not shutil.which(name)]
    if missing:
        raise CaseError(f"not installed: {', '.join(missing)}")


def beyond(section: Section, case: str, other: str) -> Sample:
    """Return how much longer a case took than another in the same turns; raises CaseError."""
    if not {case, other} <= section.samples.keys():
        raise CaseError(section.missing.get(case) or section.missing.get(other, "not measured"))
    pairs = zip(section.samples[case].values, section.samples[other].values, strict=True)
    return Sample(tuple(more - less for more, less in pairs))


def ratio(section: Section, case: str, other: str, most: float) -> None:
    """Add the goal that a case takes at most so many times what another takes."""
    value, base = section.median(case), section.median(other)
    found = value / base if value is not None and base else None
    section.goals.append(
        Goal(
            f"{case}: at most {most:g} times {other}",
            "not measured" if found is None else f"{found:.3f}",
            None if found is None else found <= most,
        )
    )


@contextmanager
def registry(folder: str) -> Iterator[str]:
    """Start Debian's registry server on loopback; give its host and port."""
    need("docker-registry")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    path = os.path.join(folder, "registry.yml")
    with open(path, "w", encoding="utf-8") as file:
        file.write(
            "version: 0.1\nlog: {level: error, accesslog: {disabled: true}}\n"
            f"storage: {{filesystem: {{rootdirectory: {folder}/registry}}}}\n"
            f"http: {{addr: {address}}}\n"
        )
    null = subprocess.DEVNULL
    with subprocess.Popen(["docker-registry", "serve", path], stdout=null, stderr=null) as server:
        try:
            _wait(address)
            yield address
        finally:
            server.terminate()


def _wait(address: str) -> None:
    host, _, port = address.partition(":")
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex((host, int(port))) == 0:
                return
        time.sleep(0.1)
    raise CaseError("the registry does not answer")


def archive(bench: Bench, target: str, *, ordered: bool = False) -> None:
    """Write a tar archive of what the image with the programs has and the plain one has not.

    Without such an image it is the plain one's /usr. `ordered`: sorted by name.
    """
    find = "find /usr ! -type d -print0"
    image = bench.programs_image or bench.image
    names = run(bench, ("--no-job-dir",), image, find).stdout.split(b"\0")[:-1]
    if bench.programs_image:
        plain = set(run(bench, ("--no-job-dir",), bench.image, find).stdout.split(b"\0"))
        names = [name for name in names if name not in plain]
    with open(os.path.join(bench.share, "list"), "wb") as file:
        file.writelines(name[1:] + b"\0" for name in (sorted(names) if ordered else names))
    words = [bench.apppot, "run", *OFFLINE, "--root", image, "--", "tar", "-C", "/"]
    words += ["--null", "-T", "/job/list", "-cf", "-"]
    with open(target, "wb") as file:
        started = partial(subprocess.run, stdout=file, stdin=subprocess.DEVNULL, check=False)
        done = started(words, cwd=bench.share, env=environment({}))
    if done.returncode:
        raise CaseError(f"the files could not be archived: status {done.returncode}")
