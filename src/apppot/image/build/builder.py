"""Build an image from a Containerfile: one step after the other, each in a machine of its own."""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from apppot.errors import AppPotError, ImageError, UsageError
from apppot.image import containerfile, model, reference
from apppot.image.build import bases, cache, evaluate, planner
from apppot.image.build.context import Context
from apppot.image.build.model import SCRATCH, Evaluated, Pairs, Run, Stage, Step
from apppot.image.build.steps import StepError, Worker
from apppot.image.store import stores

if TYPE_CHECKING:
    from collections.abc import Sequence

    from apppot.image.build.bases import Base
    from apppot.image.build.cache import State
    from apppot.image.build.machines import Machine
    from apppot.image.build.planner import Plan
    from apppot.image.containerfile import Containerfile
    from apppot.image.writer import Writer

NAMES = ("Containerfile", "Dockerfile")
NAMESPACE = "vnd.apppot."
_PROXIES = ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")


@dataclass(frozen=True)
class Request:
    """What is to be built. `arguments`: None is the value of the caller's environment."""

    names: tuple[str, ...]
    folder: str
    machine: Machine
    file: str = ""
    arguments: tuple[tuple[str, str | None], ...] = ()
    target: str = ""
    use_cache: bool = True
    debug: bool = False
    quiet: bool = False


@dataclass(frozen=True)
class Built:
    """What has been built; `cached` of its `steps` were known already."""

    names: tuple[str, ...]
    digest: str
    steps: int
    cached: int


class Show(Protocol):
    """Who tells the user how far the build is."""

    def step(self, number: int, total: int, text: str) -> None:
        """Say what is done now."""

    def cached(self) -> None:
        """Say that its result was known."""

    def done(self, seconds: float) -> None:
        """Say how long it took."""

    def note(self, text: str) -> None:
        """Say something that stays."""


@dataclass(frozen=True)
class _Planned:
    """A stage with what is known before anything runs."""

    stage: Stage
    base: Base | None  # None: it begins from another stage
    found: Evaluated
    document: dict[str, Any]  # the configuration that it begins with, as a whole


@dataclass
class _Done:
    """The stages that have been built, and the lines of their histories."""

    states: dict[int, State] = field(default_factory=dict)
    histories: dict[int, list[dict[str, Any]]] = field(default_factory=dict)
    cached: int = 0


def build(request: Request, show: Show) -> Built:
    """Build, and return what was built; raises AppPotError.

    The store gets the image whole or not at all; results of steps stay for the next time.
    """
    names = tuple(dict.fromkeys(reference.parse_name(name).full for name in request.names))
    file, path = read(request)
    given = arguments(request.arguments)
    plan = planner.plan(file, given, request.target)
    if plan.unused:
        show.note(f"no ARG takes --build-arg {', '.join(plan.unused)}")
    context = Context.open(request.folder, path)
    cache.now()  # SOURCE_DATE_EPOCH makes sense
    planned = _planned(plan, given, show)
    total = sum(1 + len(one.found.steps) for one in planned)
    store = stores()[0]
    with ExitStack() as stack:
        adding = stack.enter_context(store.writer())
        known = cache.Cache(store, adding, use=request.use_cache)
        worker = Worker(adding, known, context, request.machine, request.quiet, stack)
        done = _Done()
        number = 0
        for one in planned:
            number += 1
            show.step(number, total, one.stage.origin.text)
            state = _begin(one, done)
            for step in one.found.steps:
                number += 1
                show.step(number, total, step.shown)
                state = _do(step, state, one, done, worker, plan, request, show)
            done.states[one.stage.index] = state
        if not state.layers:
            raise ImageError(
                f"{file.name}: the image would have no files: there is nothing to boot",
                hint="COPY something into it",
            )
        digest = _finish(names, planned, done, adding)
    return Built(names, digest, total, done.cached)


def read(request: Request) -> tuple[Containerfile, str]:
    """Return the parsed Containerfile, and its path; raises UsageError."""
    candidates = [os.path.join(request.folder, name) for name in NAMES]
    if request.file == "-":
        text = containerfile.decode(sys.stdin.buffer.read(containerfile.BIGGEST + 1), "stdin")
        return containerfile.parse(text, "stdin"), os.path.join(request.folder, NAMES[0])
    if request.file:
        candidates = [request.file, os.path.join(request.folder, request.file)]
    for path in candidates:
        try:
            with open(path, "rb") as source:
                data = source.read(containerfile.BIGGEST + 1)
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}") from error
        name = os.path.basename(path)
        return containerfile.parse(containerfile.decode(data, name), name), path
    if not os.path.isdir(request.folder):
        raise UsageError(
            f"the build context {request.folder} is not a folder",
            hint="apppot build -t NAME DIR",
        )
    what = request.file or " nor ".join(NAMES)
    raise UsageError(
        f"there is no {what} in {request.folder}",
        hint="name one with -f FILE (-f -: standard input)",
    )


def arguments(given: Sequence[tuple[str, str | None]]) -> dict[str, str]:
    """Return the caller's arguments; one without a value and not in the environment is not set."""
    found = {}
    for name, said in given:
        value = os.environ.get(name) if said is None else said
        if value is not None:
            found[name] = value
    return found


def host_proxies() -> Pairs:
    """Return the caller's proxies, which each RUN gets."""
    names = (name for lower in _PROXIES for name in (lower, lower.upper()))
    return tuple((name, os.environ[name]) for name in names if os.environ.get(name))


def _planned(plan: Plan, given: dict[str, str], show: Show) -> list[_Planned]:
    """Return the stages to build with their steps; all images that they begin from are there."""
    found: dict[int, _Planned] = {}
    for index in plan.order:
        stage = plan.stages[index]
        base: Base | None = None
        inherited: Pairs = ()
        if stage.parent is not None:
            parent = found[stage.parent]
            config, document = parent.found.config, parent.document
            inherited = parent.found.arguments
        else:
            base = _base(plan, stage, show)
            config, document = base.config, base.document
        steps_ = evaluate.evaluate(
            plan, stage, config, given, inherited=inherited, host_proxies=host_proxies()
        )
        found[index] = _Planned(stage, base, steps_, document)
    return list(found.values())


def _base(plan: Plan, stage: Stage, show: Show) -> Base:
    if stage.base == SCRATCH:
        return bases.nothing()
    try:
        return bases.base(stage.base, show.note)
    except AppPotError as error:
        where = plan.file.where(stage.origin)
        raise type(error)(
            f"{where}: FROM {stage.base}: {error.message}", hint=error.hint
        ) from error


def _begin(one: _Planned, done: _Done) -> State:
    """Return what a stage begins with."""
    if one.base is None:
        assert one.stage.parent is not None
        done.histories[one.stage.index] = list(done.histories[one.stage.parent])
        return done.states[one.stage.parent]
    history = one.base.document.get("history")
    done.histories[one.stage.index] = list(history) if isinstance(history, list) else []
    return one.base.state


def _do(
    step: Step,
    state: State,
    one: _Planned,
    done: _Done,
    worker: Worker,
    plan: Plan,
    request: Request,
    show: Show,
) -> State:
    """Do a step, or find its result in the cache; return the file system after it."""
    began = time.monotonic()
    try:
        after, was_known = worker.do(step, state, done.states, plan)
    except StepError as error:
        if request.debug and isinstance(step.action, Run):
            worker.debug(step.action, state, error, show.note)
        raise
    entry: dict[str, Any] = {"created_by": step.shown}
    if after.created or state.created:
        entry = {"created": after.created or state.created, **entry}
    if len(after.layers) == len(state.layers):
        entry["empty_layer"] = True
    done.histories[one.stage.index].append(entry)
    if was_known:
        done.cached += 1
        show.cached()
    elif step.action is not None:
        show.done(time.monotonic() - began)
    return after


def _finish(names: tuple[str, ...], planned: list[_Planned], done: _Done, adding: Writer) -> str:
    """Add the target's image to the store under its names; return its digest."""
    last = planned[-1]
    state = done.states[last.stage.index]
    document = dict(last.document)
    settings = last.found.config
    # What instructions cannot say stays as the base has it.
    inner = document.get("config")
    kept = {k: v for k, v in inner.items() if k not in _KEYS} if isinstance(inner, dict) else {}
    document["config"] = {**kept, **settings.written()}
    if settings.author:
        document["author"] = settings.author
    document["history"] = done.histories[last.stage.index]
    rootfs = document.get("rootfs")
    old = rootfs.get("diff_ids") if isinstance(rootfs, dict) else None
    root = _root(last, planned)
    count = len(root.state.layers)
    if not isinstance(old, list) or len(old) != count:
        old = [layer.content or layer.digest for layer in state.layers[:count]]
    new = [layer.content or layer.digest for layer in state.layers[count:]]
    document["rootfs"] = {"type": "layers", "diff_ids": [*old, *new]}
    document["created"] = state.created or cache.now()
    annotations = {}
    if root.digest:
        annotations = {
            model.BASE_NAME: root.name,
            f"{NAMESPACE}base.digest": root.digest,
            f"{NAMESPACE}base.chain": root.state.chain,
        }
    made = [
        adding.image(name, state.layers, document, annotations=annotations, replace=True)
        for name in names
    ]
    return made[0]


def _root(last: _Planned, planned: list[_Planned]) -> Base:
    """Return the image that a stage begins from in the end."""
    by_index = {one.stage.index: one for one in planned}
    while last.base is None:
        assert last.stage.parent is not None
        last = by_index[last.stage.parent]
    return last.base


_KEYS = frozenset(
    (
        "Env",
        "Entrypoint",
        "Cmd",
        "Labels",
        "User",
        "WorkingDir",
        "ExposedPorts",
        "Volumes",
        "StopSignal",
        "Healthcheck",
        "OnBuild",
        "Shell",
    )
)
