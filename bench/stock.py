"""The stock kernel: the kit's own source without our patches, configured as the kit's is.

It is built once, when asked for (`bench/run --stock`), with the kit's recipe, from the very archive
that the kit's kernel was made of. The result lies in the user's cache under the digest of all that
it was made from, so that another kit, recipe or compiler gives another one.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from apppot import kit, paths
from apppot.errors import AppPotError, KitError
from apppot.kit import apt, cpio, folders, sources, tools
from apppot.kit.build import locked, workspace_folder
from apppot.kit.job import Job
from apppot.kit.recipes import kernel
from bench.series import CaseError

if TYPE_CHECKING:
    from apppot.kit.manifest import Source
    from apppot.kit.progress import Progress

# What only the patches provide.
OURS = ("CONFIG_UML_HOSTPIPE", "CONFIG_TRANSPARENT_HUGEPAGE")
KERNEL = "bin/linux"


@dataclass(frozen=True)
class Stock:
    """A stock kernel with the initramfs that runs one command in it."""

    version: str
    kernel: str
    initrd: str


def fragment(ours: str) -> str:
    """Return the kit's configuration without what stock Linux does not know."""
    kept = [line for line in ours.splitlines() if not line.startswith(OURS)]
    return "\n".join(kept) + "\n"


def get(init: str, work: str, progress: Progress, *, build: bool) -> Stock:
    """Return the stock kernel, built if that is wanted and needed; raises CaseError."""
    try:
        folder, version = _kernel(progress, build=build)
    except AppPotError as error:
        raise CaseError(error.message) from error
    initrd = os.path.join(work, "stock.cpio")
    make_initrd(init, initrd)
    return Stock(version, os.path.join(folder, KERNEL), initrd)


def make_initrd(init: str, target: str) -> None:
    """Pack the stock kernel's init, a static program, with what it needs."""
    with open(init, "rb") as stream:
        content = stream.read()
    members = [
        cpio.regular("init", content, 0o755),
        *(cpio.directory(name) for name in ("dev", "layer", "new", "proc", "scratch")),
        cpio.character_device("dev/console", 5, 1),
    ]
    with open(target, "wb") as out:
        out.write(cpio.archive(members))


def _kernel(progress: Progress, *, build: bool) -> tuple[str, str]:
    """Return the folder with the kernel, and its version."""
    component = kit.find().manifest.components.get("kernel")
    if component is None or not component.sources:
        raise CaseError("the kit does not tell what its kernel was made of")
    source = component.sources[0]
    recipe = os.path.join(paths.recipes_dir(), "kit", "kernel", "config")
    with open(recipe, encoding="utf-8") as stream:
        config = fragment(stream.read())
    folder = os.path.join(paths.cache_dir(), "bench", f"stock-{_digest(source, config)}")
    if not os.path.exists(os.path.join(folder, KERNEL)):
        if not build:
            raise CaseError("not built yet: give --stock (once, some minutes)")
        _build(folder, component.version, source, config, progress)
    return folder, component.version


def _digest(source: Source, config: str) -> str:
    code = os.path.dirname(os.path.dirname(str(kernel.__file__)))
    inputs = {
        "source": source.sha256,
        "config": config,
        "code": folders.digests(code, ("job.py", "recipes/kernel.py")),
        "toolchain": tools.toolchain(),
    }
    return hashlib.sha256(json.dumps(inputs, sort_keys=True).encode()).hexdigest()[:16]


def _build(folder: str, version: str, source: Source, config: str, progress: Progress) -> None:
    tools.require()
    with workspace_folder() as workspace:
        with locked(workspace, "sources", progress):
            archive = _archive(workspace, source, progress)
        with locked(workspace, "stock", progress) as work:
            for name in ("build", "out", "recipe"):
                os.mkdir(os.path.join(work, name))
            folders.write(os.path.join(work, "recipe", "config"), config)
            log = os.path.join(workspace, "logs", "stock.log")
            os.makedirs(os.path.dirname(log), exist_ok=True)
            folders.write(log, "")
            job = Job(
                name="stock kernel",
                version=version,
                work=os.path.join(work, "build"),
                out=os.path.join(work, "out"),
                recipe=os.path.join(work, "recipe"),
                guest="",
                source=archive,
                patches=(),
                jobs=len(os.sched_getaffinity(0)),
                log=log,
                progress=progress,
            )
            kernel.build(job)
            os.makedirs(os.path.dirname(folder), exist_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
            shutil.copytree(job.out, f"{folder}.new", dirs_exist_ok=True)
            os.rename(f"{folder}.new", folder)


def _archive(workspace: str, source: Source, progress: Progress) -> str:
    """Return the archive that the kit's kernel was made of: the same bytes, or an error."""
    kept = os.path.join(workspace, "sources", source.sha256, source.file)
    if os.path.isfile(kept):
        return kept
    versions = sources.read_versions(os.path.join(paths.recipes_dir(), "kit", "versions.toml"))
    options = sources.Options(mirror=source.mirror if apt.available() else "")
    finder = sources.Finder(versions, options, workspace, progress)
    got = finder.find([versions.wanted["kernel"]])["kernel"]
    if source.sha256 not in {each.sha256 for each in got.sources}:
        raise KitError(
            f"the kit's kernel was made of {source.file}, which is no longer to be had"
            f" (the archive has {got.version})",
            hint="build the kit anew",
        )
    return got.path
