"""Turn a stage's instructions into steps: variables filled in, the configuration after each. Pure.

It needs to know what the stage begins from, because its environment counts for variables.
"""

from __future__ import annotations

import posixpath
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from apppot.image import containerfile
from apppot.image.build import fetching, words
from apppot.image.build.model import (
    SHELL,
    Config,
    Copy,
    Evaluated,
    Folder,
    InlineFile,
    Pairs,
    Run,
    Step,
)
from apppot.image.build.planner import (
    PREDEFINED,
    Plan,
    argument,
    check,
    copied_stage,
    expanded,
    platform_arguments,
)
from apppot.image.containerfile import error

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from apppot.errors import UsageError
    from apppot.image.build.model import Stage
    from apppot.image.containerfile import Containerfile, Heredoc, Instruction

_PORT = re.compile(r"\d+(-\d+)?(/(tcp|udp|sctp))?\Z", re.IGNORECASE)
_MODE = re.compile(r"[0-7]{1,5}\Z")
_OWNER = re.compile(r"[^:\s]+(:[^:\s]+)?\Z")
_URL = re.compile(r"(?:https?|ftp|git|ssh)://|git@")
_SHA256 = re.compile(r"sha256:[0-9a-f]{64}\Z")
_HEREDOC_WORD = re.compile(r"\d*<<-?[\"']?([^\"'<\s]+)[\"']?\Z")
_DURATION = re.compile(r"(?:\d+(?:\.\d+)?(?:ns|us|ms|s|m|h))+\Z")
_UNITS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "m": 60 * 10**9, "h": 3600 * 10**9}


def evaluate(
    plan: Plan,
    stage: Stage,
    base: Config,
    given: Mapping[str, str],
    *,
    inherited: Pairs = (),
    host_proxies: Pairs = (),
) -> Evaluated:
    """Return a stage's steps; raises UsageError.

    `base` is the configuration that it begins with, `given` are the caller's arguments,
    `inherited` those of its parent stage. Proxies reach RUN as they are.
    """
    state = _State(plan, stage, base, given, dict(inherited), host_proxies)
    steps = [*state.triggers(), *(state.step(it) for it in stage.instructions)]
    return Evaluated(tuple(steps), state.config, tuple(state.arguments.items()))


class _State:
    """What holds at a point of a stage."""

    def __init__(
        self,
        plan: Plan,
        stage: Stage,
        base: Config,
        given: Mapping[str, str],
        arguments: dict[str, str],
        host_proxies: Pairs,
    ) -> None:
        self.plan = plan
        self.file: Containerfile = plan.file
        self.stage = stage
        self.config = replace(base, triggers=())
        self.given = given
        self.arguments = arguments
        self._kept = base.triggers
        # Docker: an image's own SHELL goes on being used; CMD of the base is dropped by ENTRYPOINT.
        self._proxies = {
            **dict(host_proxies),
            **{k: v for k, v in given.items() if k in PREDEFINED},
        }
        self._own_cmd = False

    def triggers(self) -> Iterator[Step]:
        """Yield the steps that the base keeps for those who begin from it (ONBUILD)."""
        if not self._kept:
            return
        where = f"ONBUILD of {self.stage.base}"
        for instruction in containerfile.parse("\n".join(self._kept), where).instructions:
            found = replace(instruction, line=self.stage.origin.line)
            check(self.file, found)
            if found.name in ("FROM", "ONBUILD", "MAINTAINER"):
                raise self._wrong(found, f"{where}: {found.name} cannot stand there")
            yield self.step(found)

    @property
    def variables(self) -> dict[str, str]:
        """What words can refer to: the environment, and arguments that it does not hide."""
        return {**self.arguments, **dict(self.config.env)}

    def step(self, instruction: Instruction) -> Step:
        """Return the step of an instruction, and take its effect on the configuration."""
        action = getattr(self, f"_{instruction.name.lower()}")(instruction)
        return Step(instruction, " ".join(instruction.text.split()), self.config, action)

    def _wrong(self, instruction: Instruction, message: str, hint: str = "") -> UsageError:
        return error(self.file.name, instruction.line, message, hint)

    def _word(self, instruction: Instruction, word: str) -> str:
        return expanded(self.file, instruction, word, self.variables)

    def _words(self, instruction: Instruction) -> tuple[str, ...]:
        return tuple(self._word(instruction, word) for word in instruction.words)

    def _one(self, instruction: Instruction) -> str:
        if len(instruction.words) != 1:
            raise self._wrong(instruction, f"{instruction.name} takes one argument")
        found = self._word(instruction, instruction.words[0])
        if not found:
            raise self._wrong(
                instruction,
                f"{instruction.name} {instruction.words[0]}: nothing is left of it",
                "is the variable set? ARG NAME=VALUE, ENV NAME=VALUE or --build-arg",
            )
        return found

    def _pairs(self, instruction: Instruction) -> Pairs:
        found = self._words(instruction)
        pairs = tuple(zip(found[::2], found[1::2], strict=True))
        if any(not name for name, _ in pairs):
            raise self._wrong(instruction, f"{instruction.name}: there is an empty name")
        return pairs

    # -- what changes only the configuration ------------------------------------------------

    def _arg(self, instruction: Instruction) -> None:
        for word in instruction.words:
            name, default = argument(self.file, instruction, word, self.variables)
            known = {**platform_arguments(), **dict(self.plan.arguments)}
            if name in self.given:
                self.arguments[name] = self.given[name]
            elif default is not None:
                self.arguments[name] = default
            elif name in known:
                self.arguments[name] = known[name]

    def _env(self, instruction: Instruction) -> None:
        self.config = self.config.having_env(self._pairs(instruction))

    def _label(self, instruction: Instruction) -> None:
        labels = {**dict(self.config.labels), **dict(self._pairs(instruction))}
        self.config = replace(self.config, labels=tuple(labels.items()))

    def _user(self, instruction: Instruction) -> None:
        user = self._one(instruction)
        if not _OWNER.match(user):
            raise self._wrong(instruction, f"USER {user} is not of the form USER[:GROUP]")
        self.config = replace(self.config, user=user)

    def _maintainer(self, instruction: Instruction) -> None:
        self.config = replace(self.config, author=" ".join(instruction.words))

    def _stopsignal(self, instruction: Instruction) -> None:
        self.config = replace(self.config, stop_signal=self._one(instruction))

    def _expose(self, instruction: Instruction) -> None:
        ports = dict.fromkeys(self.config.ports)
        for word in " ".join(self._words(instruction)).split():
            if not _PORT.match(word):
                raise self._wrong(instruction, f"EXPOSE {word} is not PORT[-PORT][/tcp|udp]")
            ports[word.lower() if "/" in word else f"{word}/tcp"] = None
        self.config = replace(self.config, ports=tuple(ports))

    def _volume(self, instruction: Instruction) -> None:
        found = dict.fromkeys((*self.config.volumes, *self._words(instruction)))
        if "" in found:
            raise self._wrong(instruction, "VOLUME: there is an empty name")
        self.config = replace(self.config, volumes=tuple(found))

    def _onbuild(self, instruction: Instruction) -> None:
        if instruction.trigger in ("", "FROM", "ONBUILD", "MAINTAINER"):
            raise self._wrong(instruction, f"ONBUILD {instruction.trigger} cannot be kept")
        if instruction.heredocs:
            raise self._wrong(instruction, "ONBUILD cannot keep heredocs", "COPY a script first")
        kept = instruction.text.split(None, 1)[1]
        self.config = replace(self.config, triggers=(*self.config.triggers, kept))

    def _shell(self, instruction: Instruction) -> None:
        if not instruction.json:
            raise self._wrong(
                instruction, "SHELL takes a JSON list", 'such as SHELL ["/bin/bash", "-c"]'
            )
        self.config = replace(self.config, shell=instruction.words)

    def _command(self, instruction: Instruction) -> tuple[str, ...]:
        if instruction.json:
            return instruction.words
        return (*(self.config.shell or SHELL), " ".join(instruction.words))

    def _cmd(self, instruction: Instruction) -> None:
        self._own_cmd = True
        self.config = replace(self.config, cmd=self._command(instruction))

    def _entrypoint(self, instruction: Instruction) -> None:
        # The base's CMD was meant for the base's ENTRYPOINT.
        cmd = self.config.cmd if self._own_cmd else None
        self.config = replace(self.config, entrypoint=self._command(instruction), cmd=cmd)

    def _healthcheck(self, instruction: Instruction) -> None:
        import json

        kind, *rest = instruction.words
        found: dict[str, object] = {}
        if kind.upper() == "NONE":
            found["Test"] = ["NONE"]
        elif kind.upper() == "CMD" and rest:
            found["Test"] = ["CMD", *rest] if instruction.json else ["CMD-SHELL", " ".join(rest)]
        else:
            raise self._wrong(instruction, "HEALTHCHECK is not of the form CMD COMMAND, or NONE")
        keys = {"start-period": "StartPeriod", "start-interval": "StartInterval"}
        for flag, value in instruction.flags:
            if flag == "retries" and (value or "").isdigit():
                found["Retries"] = int(value or 0)
            elif flag != "retries" and _DURATION.match(value or ""):
                parts = re.findall(r"([\d.]+)([a-z]+)", value or "")
                total = sum(float(number) * _UNITS[unit] for number, unit in parts)
                found[keys.get(flag, flag.capitalize())] = int(total)
            else:
                raise self._wrong(instruction, f"--{flag}={value} is not a number or time")
        pairs = tuple((key, json.dumps(value)) for key, value in found.items())
        self.config = replace(self.config, healthcheck=pairs)

    # -- what changes files -----------------------------------------------------------------

    def _workdir(self, instruction: Instruction) -> Folder:
        path = self._one(instruction)
        self.config = replace(self.config, working_dir=self._absolute(path).rstrip("/") or "/")
        return Folder(self.config.working_dir, self.config.user)

    def _absolute(self, path: str) -> str:
        """Return a path in the image; a slash at its end stays."""
        full = posixpath.join(self.config.working_dir or "/", path)
        clean = posixpath.normpath("/" + full.lstrip("/"))
        folder = path.endswith("/") or posixpath.basename(path) in (".", "..")
        return clean.rstrip("/") + "/" if folder else clean

    def _run(self, instruction: Instruction) -> Run:
        script = None
        if instruction.json:
            argv = instruction.words
        else:
            argv, script = self._shell_run(instruction)
        if not argv or not argv[0]:
            raise self._wrong(instruction, "RUN: there is no command")
        network = dict(instruction.flags).get("network", "default")
        if network not in ("default", "none"):
            raise self._wrong(
                instruction,
                f"RUN --network={network} is not supported",
                "a machine has a network of its own, or --network=none",
            )
        # The environment hides arguments of the same name.
        environment = {**self.arguments, **dict(self.config.env)}
        proxies = {k: v for k, v in self._proxies.items() if k not in environment}
        return Run(
            argv=argv,
            environment=tuple(environment.items()),
            directory=self.config.working_dir or "/",
            user=self.config.user,
            network=network == "default",
            proxies=tuple(proxies.items()),
            script=script,
        )

    def _shell_run(self, instruction: Instruction) -> tuple[tuple[str, ...], InlineFile | None]:
        """Return the words of RUN's shell form; a heredoc alone is the script itself."""
        shell = self.config.shell or SHELL
        text = " ".join(instruction.words)
        docs = instruction.heredocs
        if len(docs) == 1 and _HEREDOC_WORD.match(text.strip()):
            if docs[0].content.startswith("#!"):
                return (f"/dev/pipes/{docs[0].name}",), InlineFile(docs[0].name, docs[0].content)
            return (*shell, docs[0].content), None
        for doc in docs:  # the shell reads them
            text += f"\n{doc.content}{doc.name}"
        return (*shell, text), None

    def _copy(self, instruction: Instruction) -> Copy:
        found = self._copied(instruction)
        source = dict(instruction.flags).get("from")
        if source is None:
            return found
        if found.files:
            raise self._wrong(instruction, "COPY --from cannot take heredocs")
        stage = copied_stage(self.file, instruction, source, self.plan.stages[: self.stage.index])
        if stage is not None and stage not in self.stage.needs:
            raise self._wrong(instruction, f"ONBUILD COPY --from={source}: it is a stage here")
        return replace(found, stage=stage, image=source if stage is None else "")

    def _add(self, instruction: Instruction) -> Copy:
        found = replace(self._copied(instruction), unpack=True)
        checksum = dict(instruction.flags).get("checksum")
        urls = [source for source in found.sources if _URL.match(source)]
        if checksum is not None:
            checksum = self._word(instruction, checksum)
            if not _SHA256.match(checksum) or len(found.sources) != 1 or not urls:
                raise self._wrong(instruction, "--checksum=sha256:DIGEST belongs to one URL alone")
            found = replace(found, checksum=checksum)
        for url in urls:
            if not fetching.is_address(url):
                raise self._wrong(
                    instruction, f"ADD {url}: only files of web servers", "use RUN git clone"
                )
        return found

    def _copied(self, instruction: Instruction) -> Copy:
        """Return what COPY and ADD have in common."""
        flags = dict(instruction.flags)
        texts = self._words(instruction)
        if len(texts) < 2:  # noqa: PLR2004
            raise self._wrong(instruction, f"{instruction.name} takes sources and a target")
        *sources, target = texts
        docs = {doc.name: doc for doc in instruction.heredocs}
        files, paths = [], []
        for word, source in zip(instruction.words[:-1], sources, strict=True):
            match = _HEREDOC_WORD.match(word)
            if match and match[1] in docs and not instruction.json:
                files.append(self._inline(instruction, docs[match[1]]))
            elif not source:
                raise self._wrong(instruction, f"{instruction.name} {word}: nothing is left of it")
            else:
                paths.append(source)
        target = self._absolute(target) if target else ""
        if not target:
            raise self._wrong(instruction, f"{instruction.name}: the target is empty")
        several = len(files) + len(paths) > 1
        if several and not target.endswith("/"):
            raise self._wrong(
                instruction,
                f"{instruction.name} of several sources needs a folder as its target",
                f"end it with a slash: {texts[-1]}/",
            )
        return Copy(
            sources=tuple(paths),
            target=target,
            owner=self._owner(instruction, flags.get("chown")),
            mode=self._mode(instruction, flags.get("chmod")),
            files=tuple(files),
        )

    def _inline(self, instruction: Instruction, doc: Heredoc) -> InlineFile:
        if doc.literal:
            return InlineFile(doc.name, doc.content)
        try:
            text = words.expand_raw(doc.content, self.variables, self.file.escape)
        except words.WordError as problem:
            raise self._wrong(instruction, f"in the heredoc {doc.name}: {problem}") from problem
        return InlineFile(doc.name, text)

    def _owner(self, instruction: Instruction, text: str | None) -> str:
        owner = self._word(instruction, text or "")
        if text is not None and not _OWNER.match(owner):
            raise self._wrong(instruction, f"--chown={owner} is not of the form USER[:GROUP]")
        return owner

    def _mode(self, instruction: Instruction, text: str | None) -> int | None:
        if text is None:
            return None
        mode = self._word(instruction, text)
        if not _MODE.match(mode) or int(mode, 8) > 0o7777:  # noqa: PLR2004
            raise self._wrong(instruction, f"--chmod={mode} is not octal", "such as --chmod=755")
        return int(mode, 8)
