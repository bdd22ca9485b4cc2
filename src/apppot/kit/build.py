"""Build a kit: sources, one build for each component, one folder in the end."""

from __future__ import annotations

import contextlib
import fcntl
import glob
import hashlib
import json
import os
import shutil
import tempfile
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING

from apppot import __version__, paths
from apppot.errors import KitError, UsageError
from apppot.kit import MANIFEST, SCHEMA, folders, libraries, tools, verify
from apppot.kit import manifest as manifests
from apppot.kit.job import Job
from apppot.kit.manifest import Component, File, Manifest, Patch
from apppot.kit.recipes import RECIPES
from apppot.kit.sources import Finder, Got, Options, Versions, Wanted, read_versions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from apppot.kit.progress import Progress

KEPT = 4  # results of each component that the cache keeps


@dataclass(frozen=True)
class BuildOptions:
    """What the user asked for; no `only` means all components."""

    output: str = ""
    sources: Options = field(default_factory=Options)
    only: tuple[str, ...] = ()
    jobs: int = 0
    cached: bool = True


def build(options: BuildOptions, progress: Progress) -> str:
    """Build a kit and return its folder; raises KitError.

    The kit that was in the folder before is replaced at once, when the new one is whole.
    """
    output = options.output or os.path.join(paths.cache_dir(), "kit")
    output = os.path.realpath(output)
    names = _names(options.only)
    if options.jobs < 0:
        raise UsageError(f"there cannot be {options.jobs} parallel jobs")
    folders.check_replaceable(output)
    tools.require()
    versions = read_versions(os.path.join(paths.recipes_dir(), "kit", "versions.toml"))
    before = os.umask(0o022)
    try:
        with workspace_folder() as workspace:
            builder = Builder(versions, workspace, options, progress)
            results = builder.results(names)
            merged = _merge(results, output) if options.only else _merge(results)
            merged = replace(merged, recipes="" if options.only else folders.recipes_digest())
            with folders.replacing(output) as aside:
                _assemble(merged, results, output, aside)
    finally:
        os.umask(before)
    return output


def _names(only: tuple[str, ...]) -> list[str]:
    unknown = [name for name in only if name not in RECIPES]
    if unknown:
        raise KitError(
            f"there is no component '{unknown[0]}'", hint="there are: " + ", ".join(RECIPES)
        )
    return [name for name in RECIPES if not only or name in only]


@contextlib.contextmanager
def workspace_folder() -> Iterator[str]:
    """Give the folder for builds: in the user's cache, or a temporary one if that is impossible."""
    folder = os.path.join(paths.cache_dir(), "build")
    try:
        os.makedirs(folder, exist_ok=True)
        usable = os.access(folder, os.W_OK | os.X_OK)
    except OSError:
        usable = False
    if usable:
        yield os.path.realpath(folder)
        return
    with tempfile.TemporaryDirectory(prefix="apppot-kit-", dir=paths.scratch_dir()) as temporary:
        yield os.path.realpath(temporary)


@contextlib.contextmanager
def locked(workspace: str, name: str, progress: Progress) -> Iterator[str]:
    """Hold the lock of a component (or of the sources) and give it an empty folder to work in.

    Builds of different components do not wait for each other. What a killed build left is removed.
    """
    os.makedirs(os.path.join(workspace, "locks"), exist_ok=True)
    with open(os.path.join(workspace, "locks", name), "a", encoding="utf-8") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            with progress.step(f"{name}: wait for another 'apppot kit build'"):
                fcntl.flock(stream, fcntl.LOCK_EX)
        work = os.path.join(workspace, "work", name)
        shutil.rmtree(work, ignore_errors=True)
        os.makedirs(work)
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)


class Builder:
    """Builds components; each result is a small kit of its own in the workspace's cache."""

    def __init__(
        self, versions: Versions, workspace: str, options: BuildOptions, progress: Progress
    ) -> None:
        self.versions = versions
        self.workspace = workspace
        self.options = options
        self.progress = progress
        self.recipes = paths.recipes_dir()
        self.toolchain = tools.toolchain()
        self.jobs = options.jobs or len(os.sched_getaffinity(0))

    def results(self, names: list[str]) -> list[str]:
        """Return the folders of the components' results, built where the cache has none."""
        wanted = [self.versions.wanted[name] for name in names]
        finder = Finder(self.versions, self.options.sources, self.workspace, self.progress)
        with locked(self.workspace, "sources", self.progress):
            got = finder.find(wanted)
        return [self._result(each, got[each.name]) for each in wanted]

    def _result(self, wanted: Wanted, got: Got) -> str:
        """Return the folder of a component's result, built if the cache does not have it."""
        with locked(self.workspace, wanted.name, self.progress) as work:
            return self._locked_result(wanted, got, work)

    def _locked_result(self, wanted: Wanted, got: Got, work: str) -> str:
        component = self._component(wanted, got)
        place = os.path.join(self.workspace, wanted.name, component.inputs)
        if self.options.cached and self._cached(place):
            self.progress.note(f"{wanted.name}: {got.version or 'unchanged'}, from the build cache")
            os.utime(place)
            return place
        job = self._job(wanted, got, work)
        RECIPES[wanted.name].build(job)
        libraries.write_texts(RECIPES[wanted.name].LINKED, job.out)
        files = folders.entries(job.out)
        manifest = Manifest(
            files=files,
            components={wanted.name: replace(component, files=tuple(sorted(files)))},
            toolchain=self.toolchain,
            apppot=__version__,
        )
        folders.write(os.path.join(job.out, MANIFEST), manifests.render(manifest))
        os.makedirs(os.path.dirname(place), exist_ok=True)
        folders.take_place(job.out, place)
        self._prune(os.path.dirname(place))
        return place

    def _cached(self, place: str) -> bool:
        try:
            verify.check(place)
        except KitError:
            return False
        return True

    def _prune(self, folder: str) -> None:
        entries = sorted(os.scandir(folder), key=lambda entry: -entry.stat().st_mtime)
        for entry in entries[KEPT:]:
            shutil.rmtree(entry.path, ignore_errors=True)

    def _recipe(self, name: str) -> str:
        return os.path.join(self.recipes, "kit", name)

    def _patches(self, name: str) -> tuple[str, ...]:
        """Return a component's patches in their order: its own, unless its recipe names others."""
        patterns = getattr(RECIPES[name], "PATCHES", (f"{name}/patches/*.patch",))
        found = [glob.glob(os.path.join(self.recipes, "kit", pattern)) for pattern in patterns]
        return tuple(path for group in found for path in sorted(group))

    def _component(self, wanted: Wanted, got: Got) -> Component:
        """Return what is known of a component before it is built, with the digest of its inputs."""
        patches = tuple(
            Patch(os.path.basename(path), verify.sha256_of(path))
            for path in self._patches(wanted.name)
        )
        sources = got.sources or folders.own_sources(os.path.join(self.recipes, "guest"))
        found = [libraries.linked(name) for name in RECIPES[wanted.name].LINKED]
        component = Component(
            version=got.version or __version__,
            licence=wanted.licence,
            files=(),
            sources=sources,
            patches=patches,
            libraries=tuple(library for library, _ in found),
        )
        content = {
            "component": wanted.name,
            "version": component.version,
            "sources": [(each.file, each.sha256) for each in sources],
            "patches": [(each.name, each.sha256) for each in patches],
            "libraries": [(asdict(one), text and verify.sha256_of(text)) for one, text in found],
            "recipe": folders.digests(self._recipe(wanted.name)),
            "code": folders.digests(os.path.dirname(__file__), ("job.py", "cpio.py"))
            + folders.digests(os.path.dirname(str(RECIPES[wanted.name].__file__))),
            "toolchain": self.toolchain,
            "schema": SCHEMA,
        }
        text = json.dumps(content, sort_keys=True)
        return replace(component, inputs=hashlib.sha256(text.encode()).hexdigest())

    def _job(self, wanted: Wanted, got: Got, work: str) -> Job:
        os.makedirs(os.path.join(self.workspace, "logs"), exist_ok=True)
        log = os.path.join(self.workspace, "logs", f"{wanted.name}.log")
        folders.write(log, "")
        os.makedirs(os.path.join(work, "build"))
        os.makedirs(os.path.join(work, "out"))
        return Job(
            name=wanted.name,
            version=got.version or __version__,
            work=os.path.join(work, "build"),
            out=os.path.join(work, "out"),
            recipe=self._recipe(wanted.name),
            guest=os.path.join(self.recipes, "guest"),
            source=got.path,
            patches=self._patches(wanted.name),
            jobs=self.jobs,
            log=log,
            progress=self.progress,
        )


def _merge(results: list[str], previous: str = "") -> Manifest:
    """Return the manifest of the whole kit: of `previous`, if given, with the results' on top."""
    parts = [manifests.load(place) for place in results]
    if previous and os.path.exists(os.path.join(previous, MANIFEST)):
        parts.insert(0, verify.check(previous))
    files: dict[str, File] = {}
    components: dict[str, Component] = {}
    for part in parts:
        files |= part.files
        components |= part.components
    kept = {name for component in components.values() for name in component.files}
    return Manifest(
        files={name: entry for name, entry in sorted(files.items()) if name in kept},
        components=dict(sorted(components.items())),
        toolchain=parts[-1].toolchain,
        apppot=__version__,
    )


def _assemble(manifest: Manifest, results: list[str], previous: str, aside: str) -> None:
    """Copy the files that `manifest` names into `aside`, and check what came out."""
    origin = {name: place for place in results for name in manifests.load(place).files}
    for name, entry in manifest.files.items():
        target = os.path.join(aside, name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copyfile(os.path.join(origin.get(name, previous), name), target)
        os.chmod(target, 0o755 if entry.executable else 0o644)
        folders.sync(target)
    dynamic = [name for name in manifest.files if folders.needs_loader(os.path.join(aside, name))]
    if dynamic:
        raise KitError(f"these programs did not become static: {', '.join(dynamic)}")
    folders.write(os.path.join(aside, MANIFEST), manifests.render(manifest))
    verify.check(aside)
