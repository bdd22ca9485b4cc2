"""Do single steps: find their results in the cache, or make them."""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from typing import IO, TYPE_CHECKING

from apppot.errors import AppPotError, ImageError, MachineError
from apppot.image import erofs
from apppot.image.build import bases, cache, context, fetching, machines, packing
from apppot.image.build.cache import State
from apppot.image.build.model import Copy, Folder, Run
from apppot.image.containerfile import error
from apppot.image.model import Layer
from apppot.outcome import Source

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from apppot.errors import UsageError
    from apppot.image.build.cache import Cache
    from apppot.image.build.context import Context
    from apppot.image.build.machines import Machine
    from apppot.image.build.model import Step
    from apppot.image.build.planner import Plan
    from apppot.image.writer import Writer

LAST_OUTPUT = 64 << 10  # of a failed step of a quiet build
_INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


class StepError(ImageError):
    """A RUN has failed; `changes` is an archive of what it has changed until then."""

    def __init__(self, message: str, *, hint: str, changes: IO[bytes]) -> None:
        super().__init__(message, hint=hint)
        self.changes = changes


class Worker:
    """Does the steps of one build."""

    def __init__(
        self,
        adding: Writer,
        known: Cache,
        files: Context,
        machine: Machine,
        quiet: bool,
        stack: ExitStack,
    ) -> None:
        self._adding = adding
        self._known = known
        self._files = files
        self._machine = machine
        self._quiet = quiet
        self._stack = stack

    def do(
        self, step: Step, state: State, stages: Mapping[int, State], plan: Plan
    ) -> tuple[State, bool]:
        """Return the file system after a step, and whether it was in the cache."""
        action = step.action
        if action is None:
            return state, False

        def wrong(message: str, hint: str = "") -> UsageError:
            return error(plan.file.name, step.instruction.line, message, hint)

        try:
            if isinstance(action, Run):
                return self._run(action, state, step, plan)
            if isinstance(action, Folder):
                return self._folder(action, state)
            if action.stage is None and not action.image:
                return self._copy(action, state, wrong)
            return self._copy_from(action, state, stages, plan)
        except (MachineError, ImageError) as problem:
            if isinstance(problem, StepError) or problem.message.startswith(plan.file.name + ":"):
                raise
            where = plan.file.where(step.instruction)
            raise type(problem)(f"{where}: {problem.message}", hint=problem.hint) from problem

    def _layers(self, state: State) -> tuple[Layer, ...]:
        return tuple(bases.layer(self._adding.store, blob) for blob in state.layers)

    def _after(self, state: State, changes: IO[bytes], *keys: str) -> tuple[State, bool]:
        """Return the state with the changes as one more layer, and keep it under the keys."""
        layers = state.layers
        if changes.seek(0, os.SEEK_END) > machines.EMPTY:
            layers = (*layers, erofs.layer(self._adding, changes, newest=cache.newest()))
        after = State(layers, cache.now())
        self._known.keep(after, keys)
        return after, False

    # -- RUN --------------------------------------------------------------------------------

    def _run(self, run: Run, state: State, step: Step, plan: Plan) -> tuple[State, bool]:
        key = cache.run_key(state, run)
        if known := self._known.find(key):
            return known, True
        with ExitStack() as stack:
            changes = stack.enter_context(packing.temporary())
            sys.stderr.flush()
            log = stack.enter_context(tempfile.TemporaryFile()) if self._quiet else None
            outcome = machines.run(
                self._layers(state),
                run,
                self._machine,
                name=f"{plan.file.name}:{step.instruction.line}",
                output=log.fileno() if log else 2,
                changes=changes,
            )
            if outcome.message or outcome.status:
                _show_end(log)
            ended_by = outcome.result.signal if outcome.result else None
            if ended_by in _INTERRUPTS or outcome.source is Source.FORCED:
                raise KeyboardInterrupt
            where = plan.file.where(step.instruction)
            if outcome.message and not outcome.status:
                raise MachineError(f"{where}: {outcome.message}", hint=outcome.hint)
            if outcome.status:
                stack.pop_all()  # the changes are for --debug
                self._stack.callback(changes.close)
                said = f": {outcome.message}" if outcome.message else ""
                notes = "".join(f"\n{note}" for note in outcome.notes)
                raise StepError(
                    f"{where}: {step.shown}: exit status {outcome.status}{said}{notes}",
                    hint=outcome.hint or "build with --debug for a shell at that state",
                    changes=changes,
                )
            return self._after(state, changes, key)

    def debug(self, run: Run, state: State, failed: StepError, tell: Callable[[str], None]) -> None:
        """Open a shell at the state in which a RUN has failed."""
        if not os.isatty(0):
            tell("--debug opens no shell: standard input is no terminal")
            return
        tell(failed.message)
        layers = self._layers(state)
        with ExitStack() as stack:
            try:
                if failed.changes.seek(0, os.SEEK_END) > machines.EMPTY:
                    image = stack.enter_context(packing.named())
                    erofs.make(failed.changes, image.name)
                    layers = (*layers, Layer("", os.path.getsize(image.name), image.name))
                    tell("a shell with what the step has changed so far; 'exit' ends it")
                else:
                    tell("a shell at the state before the step; 'exit' ends it")
                outcome = machines.shell(layers, run, self._machine, name="debug")
            except AppPotError as problem:
                tell(f"no shell: {problem}")
                return
            if outcome.message:
                tell(f"{outcome.message}")

    # -- WORKDIR, COPY, ADD -----------------------------------------------------------------

    def _folder(self, folder: Folder, state: State) -> tuple[State, bool]:
        key = cache.folder_key(state, folder)
        if known := self._known.find(key):
            return known, True
        with packing.temporary() as archive, packing.temporary() as changes:
            packing.pack((), archive)
            machines.unpack(
                self._layers(state), archive, folder.path, owner=folder.owner, changes=changes
            )
            return self._after(state, changes, key)

    def _copy(
        self, copy: Copy, state: State, wrong: Callable[[str, str], UsageError]
    ) -> tuple[State, bool]:
        with ExitStack() as stack:
            if copy.checksum:
                key = cache.copy_key(state, copy, f"{copy.sources[0]} {copy.checksum}")
                if known := self._known.find(key):
                    return known, True
                item = fetching.fetch(copy.sources[0], copy.checksum, stack)
                selection = context.Selection((item,), alone=True)
            else:
                selection = self._selected(copy, wrong, stack)
                alone = "alone" if selection.alone else "below"
                key = cache.copy_key(state, copy, f"{alone} {context.digest(selection, copy)}")
                if known := self._known.find(key):
                    return known, True
            archive = stack.enter_context(packing.temporary())
            packing.pack(selection.items, archive, mode=copy.mode)
            return self._unpacked(copy, state, archive, selection.alone, stack, key)

    def _selected(
        self, copy: Copy, wrong: Callable[[str, str], UsageError], stack: ExitStack
    ) -> context.Selection:
        """Return what is to be copied. Addresses are fetched each time: they may have changed."""
        urls = [each for each in copy.sources if copy.unpack and fetching.is_address(each)]
        if not urls:
            return self._files.select(copy, wrong)
        paths = tuple(each for each in copy.sources if each not in urls)
        found: tuple[context.Item, ...] = ()
        if paths or copy.files:
            found = self._files.select(replace(copy, sources=paths), wrong).items
            found = tuple(each for each in found if each.name != ".")
        fetched = {item.name: item for item in (fetching.fetch(url, "", stack) for url in urls)}
        items = (*(each for each in found if each.name not in fetched), *fetched.values())
        return context.Selection(items, alone=len(copy.sources) + len(copy.files) == 1)

    def _unpacked(
        self,
        copy: Copy,
        state: State,
        archive: IO[bytes],
        alone: bool,
        stack: ExitStack,
        *keys: str,
    ) -> tuple[State, bool]:
        changes = stack.enter_context(packing.temporary())
        machines.unpack(
            self._layers(state),
            archive,
            copy.target.rstrip("/") or "/",
            owner=copy.owner,
            file=alone and not copy.target.endswith("/"),
            changes=changes,
        )
        return self._after(state, changes, *keys)

    def _copy_from(
        self, copy: Copy, state: State, stages: Mapping[int, State], plan: Plan
    ) -> tuple[State, bool]:
        if copy.stage is not None:
            origin, title = stages[copy.stage], f"the stage '{plan.stages[copy.stage].title}'"
        else:
            origin, title = bases.base(copy.image, lambda _: None).state, f"'{copy.image}'"
        # The same origin has the same files; another may have them, too.
        quick = cache.copy_key(state, copy, f"{origin.chain} {list(copy.sources)}")
        if known := self._known.find(quick):
            return known, True
        with ExitStack() as stack:
            layers = self._layers(origin)
            found = [
                match
                for source in copy.sources
                for match in machines.find(layers, source, title, stack)
            ]
            alone = len(found) == 1 and not found[0].folder
            if len(found) > 1 and not copy.target.endswith("/"):
                raise ImageError(
                    f"{' '.join(copy.sources)}: several files need a folder as their target",
                    hint=f"end it with a slash: {copy.target}/",
                )
            archive = stack.enter_context(packing.temporary())
            packing.move(found, archive, mode=copy.mode)
            key = cache.copy_key(state, copy, f"{alone} {_digest(archive)}")
            if known := self._known.find(key):
                self._known.keep(known, (quick,))
                return known, True
            return self._unpacked(copy, state, archive, alone, stack, key, quick)


def _digest(archive: IO[bytes]) -> str:
    """Return what an archive of another stage's files is known by: all but the times."""
    state = hashlib.sha256()
    for header, data in packing.contents(archive):
        state.update(header.encode("utf-8", "surrogateescape") + b"\0")
        while data and (piece := data.read(packing.PIECE)):
            state.update(piece)
    return state.hexdigest()


def _show_end(log: IO[bytes] | None) -> None:
    """Show the last output of a step that was not shown."""
    if log:
        size = log.seek(0, os.SEEK_END)
        log.seek(max(0, size - LAST_OUTPUT))
        sys.stderr.flush()
        sys.stderr.buffer.write(log.read())
        sys.stderr.flush()
