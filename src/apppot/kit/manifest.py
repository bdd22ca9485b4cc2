"""kit.json: what is in a kit, where it came from, and how it is read and written."""

from __future__ import annotations

import hashlib
import json
import os
import re
from dataclasses import asdict, dataclass, field
from typing import Any

from apppot.errors import KitError
from apppot.kit import ARCHITECTURE, MANIFEST, SCHEMA

FOREIGN_HINT = "make a new one with 'apppot kit build', or set APPPOT_KIT to another"
_DIGEST = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class File:
    """One file of the kit."""

    sha256: str
    size: int
    executable: bool = False


@dataclass(frozen=True)
class Patch:
    """A change that was made to a source before it was built."""

    name: str
    sha256: str


@dataclass(frozen=True)
class Source:
    """Where a component's source came from.

    `origin` is "debian" (through a signed index), "archive" (a pinned upstream archive) or
    "apppot" (the project's own files); `mirror` is as the building machine named it.
    """

    origin: str
    file: str
    sha256: str
    package: str = ""
    version: str = ""
    suite: str = ""
    mirror: str = ""
    expired: bool = False


@dataclass(frozen=True)
class Library:
    """A static library that is linked in; its source package and that one's version, if known."""

    name: str
    licence: str
    package: str = ""
    version: str = ""


@dataclass(frozen=True)
class Component:
    """One program of the kit: its version, licence, sources, patches, libraries and files."""

    version: str
    licence: str
    files: tuple[str, ...]
    sources: tuple[Source, ...] = ()
    patches: tuple[Patch, ...] = ()
    libraries: tuple[Library, ...] = ()
    inputs: str = ""


@dataclass(frozen=True)
class Manifest:
    """All of kit.json."""

    files: dict[str, File]
    components: dict[str, Component] = field(default_factory=dict)
    toolchain: dict[str, str] = field(default_factory=dict)
    architecture: str = ARCHITECTURE
    apppot: str = ""
    recipes: str = ""  # digest of what AppPot had to build from, '' for parts from several

    @property
    def digest(self) -> str:
        """The kit's identity: one digest over the names and digests of all its files."""
        lines = (f"{entry.sha256}  {name}\n" for name, entry in sorted(self.files.items()))
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    @property
    def size(self) -> int:
        """The sum of the files' sizes in bytes."""
        return sum(entry.size for entry in self.files.values())


def render(manifest: Manifest) -> str:
    """Return the text of kit.json; the same for the same content."""
    content = {"schema": SCHEMA, "digest": manifest.digest, **asdict(manifest)}
    return json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def parse(text: str, where: str) -> Manifest:
    """Return the manifest in `text`; `where` names the kit in errors.

    Raises KitError if it is damaged, or was made for another AppPot or another architecture.
    """
    try:
        content = json.loads(text)
    except ValueError as error:
        raise _damaged(where, f"not JSON: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("schema"), int):
        raise _damaged(where, "there is no 'schema' in it")
    if content["schema"] != SCHEMA:
        raise KitError(
            f"the kit in {where} was made by another AppPot version "
            f"(its schema is {content['schema']}, this AppPot reads {SCHEMA})",
            hint=FOREIGN_HINT,
        )
    if content.get("architecture") != ARCHITECTURE:
        raise KitError(
            f"the kit in {where} is for {content.get('architecture')!r}, not for {ARCHITECTURE}",
            hint=FOREIGN_HINT,
        )
    try:
        manifest = _manifest(content)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(where, f"{type(error).__name__}: {error}") from error
    if content.get("digest") != manifest.digest:
        raise _damaged(where, "its list of files does not have the digest that it gives")
    return manifest


def load(path: str) -> Manifest:
    """Return the manifest of the kit in the folder `path`; raises KitError."""
    name = os.path.join(path, MANIFEST)
    try:
        with open(name, encoding="utf-8") as stream:
            text = stream.read()
    except OSError as error:
        raise KitError(f"cannot read {name}: {error.strerror}", hint=FOREIGN_HINT) from error
    except UnicodeDecodeError as error:
        raise _damaged(path, str(error)) from error
    return parse(text, path)


def _damaged(where: str, what: str) -> KitError:
    return KitError(f"the kit in {where} is damaged: {MANIFEST}: {what}", hint=FOREIGN_HINT)


def _manifest(content: dict[str, Any]) -> Manifest:
    return Manifest(
        files={_name(name): _file(entry) for name, entry in content["files"].items()},
        components={
            _text(name): _component(entry) for name, entry in content["components"].items()
        },
        toolchain={_text(name): _text(value) for name, value in content["toolchain"].items()},
        architecture=content["architecture"],
        apppot=_text(content["apppot"]),
        recipes=_text(content.get("recipes", "")),
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def _name(value: Any) -> str:
    """Return a file's name, which must stay inside the kit."""
    parts = _text(value).split("/")
    if any(part in ("", ".", "..") for part in parts) or not value.isprintable():
        raise ValueError(f"{value!r} is not a file's name")
    return "/".join(parts)


def _digest(value: Any) -> str:
    if not _DIGEST.fullmatch(_text(value)):
        raise ValueError(f"{value!r} is not a SHA-256 digest")
    return str(value)


def _file(entry: dict[str, Any]) -> File:
    size = entry["size"]
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise ValueError(f"{size!r} is not a size")
    return File(_digest(entry["sha256"]), size, bool(entry["executable"]))


def _component(entry: dict[str, Any]) -> Component:
    return Component(
        version=_text(entry["version"]),
        licence=_text(entry["licence"]),
        files=tuple(_name(name) for name in entry["files"]),
        sources=tuple(_source(source) for source in entry["sources"]),
        patches=tuple(Patch(_text(p["name"]), _digest(p["sha256"])) for p in entry["patches"]),
        libraries=tuple(_library(library) for library in entry.get("libraries", ())),
        inputs=_text(entry["inputs"]),
    )


def _library(entry: dict[str, Any]) -> Library:
    return Library(*(_text(entry[key]) for key in ("name", "licence", "package", "version")))


def _source(entry: dict[str, Any]) -> Source:
    texts = {
        key: _text(entry[key])
        for key in ("origin", "file", "package", "version", "suite", "mirror")
    }
    return Source(**texts, sha256=_digest(entry["sha256"]), expired=bool(entry["expired"]))
