"""Cut a Containerfile into stages, and find those that a target needs. Pure: no file is read."""

from __future__ import annotations

import platform
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from apppot.errors import UsageError
from apppot.image.build import words
from apppot.image.build.model import SCRATCH, Pairs, Stage
from apppot.image.containerfile import error

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from apppot.image.containerfile import Containerfile, Instruction

_STAGE = re.compile(r"[a-z][a-z0-9_.-]*\Z")
_ARGUMENT = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "riscv64": "riscv64"}
# fmt: off
KNOWN = frozenset((
    "ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL",
    "MAINTAINER", "ONBUILD", "RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR",
))
# fmt: on
# BuildKit's flags of each instruction; those in _REFUSED are told why.
FLAGS = {
    "FROM": {"platform"},
    "RUN": {"mount", "network", "security"},
    "COPY": {"from", "chown", "chmod", "link", "parents", "exclude"},
    "ADD": {"chown", "chmod", "link", "checksum", "keep-git-dir", "unpack", "exclude"},
    "HEALTHCHECK": {"interval", "timeout", "start-period", "start-interval", "retries"},
}
_REFUSED = {
    ("RUN", "mount"): "copy what the step needs with COPY; a cache between builds is not kept",
    ("RUN", "security"): "a step is root of its own machine already: leave --security out",
    ("COPY", "parents"): "copy each folder to its own place",
    ("COPY", "exclude"): "name it in .dockerignore, or remove it in a later RUN",
    ("ADD", "exclude"): "name it in .dockerignore, or remove it in a later RUN",
    ("ADD", "keep-git-dir"): "repositories are not fetched: use RUN git clone",
    ("ADD", "unpack"): "COPY does not unpack, ADD does",
}


@dataclass(frozen=True)
class Plan:
    """A Containerfile's stages. `order` are those to build, the target the last."""

    file: Containerfile
    arguments: Pairs  # before the first FROM, with the caller's values
    stages: tuple[Stage, ...]
    order: tuple[int, ...]
    unused: tuple[str, ...] = ()  # the caller's arguments that no ARG takes

    @property
    def target(self) -> Stage:
        """Return the stage that is asked for."""
        return self.stages[self.order[-1]]


def host_platform() -> str:
    """Return the platform of images for this computer."""
    machine = platform.machine()
    return f"linux/{ARCHITECTURES.get(machine, machine)}"


def platform_arguments() -> dict[str, str]:
    """Return the arguments that FROM knows by itself, and ARG without a value."""
    system, _, architecture = host_platform().partition("/")
    found = {}
    for kind in ("TARGET", "BUILD"):
        found[f"{kind}PLATFORM"] = f"{system}/{architecture}"
        found[f"{kind}OS"] = system
        found[f"{kind}ARCH"] = architecture
        found[f"{kind}VARIANT"] = ""
    return found


def plan(file: Containerfile, given: Mapping[str, str], target: str = "") -> Plan:
    """Return the stages that lead to `target` (the last one by default); raises UsageError."""
    for instruction in file.instructions:
        check(file, instruction)
    first = next((i for i, it in enumerate(file.instructions) if it.name == "FROM"), None)
    head = file.instructions[:first]
    for instruction in head:
        if instruction.name != "ARG":
            raise error(
                file.name,
                instruction.line,
                f"{instruction.name} stands before the first FROM",
                "only ARG can stand there: a build begins with FROM IMAGE",
            )
    if first is None:
        raise error(file.name, 0, "has no FROM", "the first instruction is FROM IMAGE")
    arguments = _global_arguments(file, head, given)
    stages = _stages(file, file.instructions[first:], {**platform_arguments(), **arguments})
    wanted = _find(stages, target, len(stages)) if target else len(stages) - 1
    if wanted is None:
        names = ", ".join(stage.name for stage in stages if stage.name) or "none has a name"
        raise UsageError(
            f"--target {target}: {file.name} has no such stage", hint=f"its stages: {names}"
        )
    declared = {
        argument_name(word)
        for it in file.instructions
        if it.name == "ARG" or it.trigger == "ARG"
        for word in it.words
    }
    unused = tuple(sorted(set(given) - declared - PREDEFINED))
    return Plan(file, tuple(arguments.items()), stages, _order(stages, wanted), unused)


PREDEFINED = frozenset(
    name
    for lower in ("http_proxy", "https_proxy", "ftp_proxy", "no_proxy", "all_proxy")
    for name in (lower, lower.upper())
)


def argument_name(word: str) -> str:
    """Return the name in a word of ARG."""
    return word.partition("=")[0]


def check(file: Containerfile, instruction: Instruction) -> None:
    """Check an instruction's name and flags; raises UsageError."""
    name = instruction.name
    if name not in KNOWN:
        import difflib

        near = difflib.get_close_matches(name, KNOWN, n=1)
        hint = f"did you mean {near[0]}?" if near else "instructions: " + " ".join(sorted(KNOWN))
        raise error(file.name, instruction.line, f"{name} is no instruction", hint)
    kind = instruction.trigger or name
    seen = set()
    for flag, _ in instruction.flags:
        if flag not in FLAGS.get(kind, ()):
            known = ", ".join(f"--{known}" for known in sorted(FLAGS.get(kind, ())))
            hint = f"{kind} knows {known}" if known else f"{kind} takes no flags"
            raise error(file.name, instruction.line, f"{kind} --{flag} is not known", hint)
        if (kind, flag) in _REFUSED:
            raise error(
                file.name,
                instruction.line,
                f"{kind} --{flag} is not supported",
                _REFUSED[kind, flag],
            )
        if flag in seen:
            raise error(file.name, instruction.line, f"--{flag} is given twice")
        seen.add(flag)
    empty_list = instruction.json and name in ("CMD", "ENTRYPOINT")  # takes the base's away
    if not (instruction.words or instruction.heredocs or empty_list):
        raise error(file.name, instruction.line, f"{name} needs an argument")


def _global_arguments(
    file: Containerfile, head: Sequence[Instruction], given: Mapping[str, str]
) -> dict[str, str]:
    """Return the arguments before the first FROM that have a value."""
    known: dict[str, str] = {}
    for instruction in head:
        for word in instruction.words:
            name, value = argument(file, instruction, word, {**platform_arguments(), **known})
            if name in given:
                known[name] = given[name]
            elif value is not None:
                known[name] = value
    return known


def argument(
    file: Containerfile, instruction: Instruction, word: str, known: Mapping[str, str]
) -> tuple[str, str | None]:
    """Return name and default of an ARG's word; raises UsageError."""
    name, equals, value = word.partition("=")
    if not _ARGUMENT.match(name):
        raise error(file.name, instruction.line, f"ARG {word}: '{name}' is not a name")
    return name, expanded(file, instruction, value, known) if equals else None


def expanded(
    file: Containerfile, instruction: Instruction, word: str, known: Mapping[str, str]
) -> str:
    """Return a word with its variables filled in; raises UsageError."""
    try:
        return words.expand(word, known, file.escape)
    except words.WordError as problem:
        raise error(
            file.name, instruction.line, f"{instruction.name}: in '{word}': {problem}"
        ) from problem


def _stages(
    file: Containerfile, instructions: Sequence[Instruction], known: Mapping[str, str]
) -> tuple[Stage, ...]:
    begins = [i for i, it in enumerate(instructions) if it.name == "FROM"]
    stages: list[Stage] = []
    for begin, end in zip(begins, [*begins[1:], len(instructions)], strict=True):
        stages.append(_stage(file, instructions[begin:end], known, stages))
    return tuple(stages)


def _stage(
    file: Containerfile,
    instructions: Sequence[Instruction],
    known: Mapping[str, str],
    before: Sequence[Stage],
) -> Stage:
    origin, *rest = instructions
    base = expanded(file, origin, origin.words[0], known)
    if not base:
        raise error(
            file.name,
            origin.line,
            f"FROM {origin.words[0]}: there is no name",
            "give the variable a value: ARG NAME=VALUE before the first FROM, or --build-arg",
        )
    name = ""
    if len(origin.words) > 1:
        if len(origin.words) != 3 or origin.words[1].upper() != "AS":  # noqa: PLR2004
            raise error(file.name, origin.line, "FROM is not of the form FROM IMAGE [AS NAME]")
        name = expanded(file, origin, origin.words[2], known).lower()
        if not _STAGE.match(name):
            raise error(file.name, origin.line, f"'{name}' cannot be the name of a stage")
        if name == SCRATCH or any(stage.name == name for stage in before):
            raise error(file.name, origin.line, f"there is a stage '{name}' already")
    _check_platform(file, origin, known)
    parent = next((stage.index for stage in before if stage.name == base.lower()), None)
    needs = {parent} if parent is not None else set()
    for instruction in rest:
        source = dict(instruction.flags).get("from")
        if instruction.name == "COPY" and source is not None:
            found = copied_stage(file, instruction, source, before)
            needs |= {found} if found is not None else set()
    return Stage(len(before), name, base, parent, origin, tuple(rest), tuple(sorted(needs)))


def copied_stage(
    file: Containerfile, instruction: Instruction, source: str, before: Sequence[Stage]
) -> int | None:
    """Return which stage --from means, None for an image; raises UsageError."""
    if not source or "$" in source:
        raise error(
            file.name,
            instruction.line,
            f"--from={source}: no stage or image"
            + (" (variables do not work here)" * bool(source)),
            "name a stage: FROM ${VARIABLE} AS other, and then --from=other",
        )
    found = _find(before, source, len(before))
    if found is None and source.isdigit():
        raise error(file.name, instruction.line, f"--from={source}: there is no such stage before")
    return found


def _find(stages: Sequence[Stage], text: str, end: int) -> int | None:
    """Return the stage that a name or number means."""
    for stage in stages:
        if stage.name == text.lower():
            return stage.index
    return int(text) if text.isascii() and text.isdigit() and int(text) < end else None


def _check_platform(file: Containerfile, origin: Instruction, known: Mapping[str, str]) -> None:
    """Refuse a platform that is not this computer's."""
    wanted = dict(origin.flags).get("platform")
    if wanted is None:
        return
    wanted = expanded(file, origin, wanted, known)
    own = host_platform()
    short = {own, own.partition("/")[2], f"{own}/v8" if own.endswith("arm64") else own}
    if wanted not in short and wanted != "":
        raise error(
            file.name,
            origin.line,
            f"--platform={wanted}: machines here are {own}",
            "leave --platform out, or build on such a computer",
        )


def _order(stages: Sequence[Stage], target: int) -> tuple[int, ...]:
    """Return the stages to build for `target`, in the file's order."""
    needed: set[int] = set()
    pending = [target]
    while pending:
        index = pending.pop()
        if index not in needed:
            needed.add(index)
            pending.extend(stages[index].needs)
    return tuple(sorted(needed))
