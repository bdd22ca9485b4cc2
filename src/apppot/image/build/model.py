"""What a build is made of: stages, steps, and the configuration that they lead to."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

    from apppot.image.containerfile import Instruction

SHELL = ("/bin/sh", "-c")
SCRATCH = "scratch"
Pairs = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Config:
    """The part of an image's configuration that instructions change; None: not said."""

    env: Pairs = ()
    entrypoint: tuple[str, ...] | None = None
    cmd: tuple[str, ...] | None = None
    labels: Pairs = ()
    user: str = ""
    working_dir: str = ""
    ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    stop_signal: str = ""
    healthcheck: Pairs = ()  # key, JSON
    triggers: tuple[str, ...] = ()
    shell: tuple[str, ...] = ()
    author: str = ""

    @classmethod
    def read(cls, document: Mapping[str, Any]) -> Self:
        """Return what an OCI configuration says; what is malformed there counts as not said."""
        inner = document.get("config")
        inner = inner if isinstance(inner, dict) else {}
        env = (text.partition("=") for text in _texts(inner, "Env"))
        labels = inner.get("Labels")
        healthcheck = inner.get("Healthcheck")
        import json

        return cls(
            env=tuple((name, value) for name, _, value in env),
            entrypoint=_texts(inner, "Entrypoint") or None,
            cmd=_texts(inner, "Cmd") or None,
            labels=tuple((str(key), str(value)) for key, value in labels.items())
            if isinstance(labels, dict)
            else (),
            user=_text(inner, "User"),
            working_dir=_text(inner, "WorkingDir"),
            ports=_keys(inner, "ExposedPorts"),
            volumes=_keys(inner, "Volumes"),
            stop_signal=_text(inner, "StopSignal"),
            healthcheck=tuple((str(key), json.dumps(v)) for key, v in healthcheck.items())
            if isinstance(healthcheck, dict)
            else (),
            triggers=_texts(inner, "OnBuild"),
            shell=_texts(inner, "Shell"),
            author=_text(document, "author"),
        )

    def written(self) -> dict[str, Any]:
        """Return the OCI configuration's inner part; what is not said is left out."""
        import json

        document: dict[str, Any] = {
            "Env": [f"{name}={value}" for name, value in self.env],
            "Entrypoint": list(self.entrypoint) if self.entrypoint is not None else None,
            "Cmd": list(self.cmd) if self.cmd is not None else None,
            "Labels": dict(self.labels),
            "User": self.user,
            "WorkingDir": self.working_dir,
            "ExposedPorts": {port: {} for port in self.ports},
            "Volumes": {path: {} for path in self.volumes},
            "StopSignal": self.stop_signal,
            "Healthcheck": {key: json.loads(value) for key, value in self.healthcheck},
            "OnBuild": list(self.triggers),
            "Shell": list(self.shell),
        }
        kept = ("Entrypoint", "Cmd")
        return {
            key: value
            for key, value in document.items()
            if value or (key in kept and value is not None)
        }

    def setting(self, **values: str) -> Config:
        """Return the configuration with variables of the environment set."""
        return self.having_env(tuple(values.items()))

    def having_env(self, pairs: Pairs) -> Config:
        """Return the configuration with more variables; a known one keeps its place."""
        return replace(self, env=tuple({**dict(self.env), **dict(pairs)}.items()))


def _texts(document: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = document.get(key)
    return tuple(v for v in value if isinstance(v, str)) if isinstance(value, list) else ()


def _text(document: Mapping[str, Any], key: str) -> str:
    value = document.get(key)
    return value if isinstance(value, str) else ""


def _keys(document: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = document.get(key)
    return tuple(value) if isinstance(value, dict) else ()


@dataclass(frozen=True)
class InlineFile:
    """A file whose contents stand in the Containerfile."""

    name: str
    content: str


@dataclass(frozen=True)
class Run:
    """A command to run in a machine. `proxies` reach it, and are no part of what it is."""

    argv: tuple[str, ...]
    environment: Pairs
    directory: str
    user: str
    network: bool = True
    proxies: Pairs = ()
    script: InlineFile | None = None  # what argv[0] is


@dataclass(frozen=True)
class Copy:
    """Files to copy: from the build context, from the stage `stage`, or from `image`."""

    sources: tuple[str, ...]
    target: str  # absolute; ends with a slash if it can only be a folder
    stage: int | None = None
    image: str = ""
    owner: str = ""
    mode: int | None = None
    files: tuple[InlineFile, ...] = ()
    unpack: bool = False  # ADD: archives are unpacked, URLs are fetched
    checksum: str = ""


@dataclass(frozen=True)
class Folder:
    """The folder of WORKDIR, which is made if it is not there."""

    path: str
    owner: str = ""


@dataclass(frozen=True)
class Step:
    """One instruction, ready to be done: variables are filled in. `config` holds after it."""

    instruction: Instruction
    shown: str
    config: Config
    action: Run | Copy | Folder | None = None


@dataclass(frozen=True)
class Stage:
    """A stage: what it begins from (an image's name, `scratch`, or the stage `parent`)."""

    index: int
    name: str
    base: str
    parent: int | None
    origin: Instruction
    instructions: tuple[Instruction, ...]
    needs: tuple[int, ...] = ()  # stages that it begins from, or copies from

    @property
    def title(self) -> str:
        """Return how messages name the stage."""
        return self.name or f"stage {self.index}"


@dataclass(frozen=True)
class Evaluated:
    """The steps of a stage, the configuration at its end, and the arguments that it knows."""

    steps: tuple[Step, ...]
    config: Config
    arguments: Pairs = ()
    used: frozenset[str] = field(default=frozenset())
