"""Read Containerfiles, with BuildKit's own parser (the library `dockerfile`).

It knows the language as users do: comments, continuation lines, `# escape=`, JSON forms, heredocs,
and each instruction's lines. What the words mean is for `apppot.image.build`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from apppot import process
from apppot.errors import AppPotError, ImageError, ProcessError, UsageError

PATIENCE = 30.0  # for the parser, in seconds
BIGGEST = 4 << 20
_ESCAPE = re.compile(r"^#\s*escape\s*=\s*(.)\s*$", re.IGNORECASE)
_DIRECTIVE = re.compile(r"^#\s*([a-zA-Z][a-zA-Z0-9]*)\s*=\s*(.+?)\s*$")
_HEREDOC = re.compile(r"^\d*<<(-?)([^<]+)$")
_NO_INSTRUCTIONS = "file with no instructions"


@dataclass(frozen=True)
class Heredoc:
    """A file whose contents stand in the Containerfile. `literal`: variables are left alone."""

    name: str
    content: str
    literal: bool = False


@dataclass(frozen=True)
class Instruction:
    """One instruction: `words` are what its own grammar makes of it; flags are without dashes."""

    name: str
    words: tuple[str, ...]
    flags: tuple[tuple[str, str | None], ...] = ()
    json: bool = False
    heredocs: tuple[Heredoc, ...] = ()
    text: str = ""  # as it stands there, in one line
    line: int = 0
    trigger: str = ""  # of ONBUILD: the instruction that it keeps


@dataclass(frozen=True)
class Containerfile:
    """A parsed file. `name` is for messages."""

    name: str
    instructions: tuple[Instruction, ...]
    escape: str = "\\"

    def where(self, instruction: Instruction) -> str:
        """Return the place of an instruction for messages."""
        return f"{self.name}:{instruction.line}"


def error(file: str, line: int, message: str, hint: str = "") -> UsageError:
    """Return the error for a place in a Containerfile."""
    return UsageError(f"{file}:{line}: {message}" if line else f"{file}: {message}", hint=hint)


def parse(text: str, name: str = "Containerfile") -> Containerfile:
    """Return what a Containerfile says; raises UsageError that names the line."""
    if len(text) > BIGGEST:
        raise error(name, 0, f"has {len(text)} characters; that is no Containerfile")
    if "\0" in text:
        raise error(name, text[: text.index("\0")].count("\n") + 1, "has a NUL character")
    text = text.removeprefix("\ufeff").replace("\r\n", "\n")
    escape = _escape(text, name)
    answer = _parse(text)
    if "error" in answer:
        raise _complaint(name, text, answer)
    # A line that has nothing but a continuation is an instruction without a name.
    found = tuple(_instruction(command) for command in answer["commands"] if command["name"])
    return Containerfile(name, found, escape)


def decode(data: bytes, name: str) -> str:
    """Return a Containerfile's text; raises UsageError."""
    try:
        return data.decode()
    except UnicodeDecodeError as problem:
        line = data[: problem.start].count(b"\n") + 1
        raise error(name, line, "is not UTF-8", "save the file as UTF-8") from problem


def _escape(text: str, name: str) -> str:
    """Return the character that continues lines: a directive can only stand at the top."""
    found = "\\"
    for number, line in enumerate(text.split("\n"), 1):
        if not _DIRECTIVE.match(line.strip()):
            break
        said = _ESCAPE.match(line.strip())
        if said and said[1] not in ("\\", "`"):
            raise error(name, number, f"escape={said[1]}: only \\ and ` can be the escape")
        found = said[1] if said else found
    return found


def _parse(text: str) -> dict[str, Any]:
    """Call the parser, in a child: it is Go, whose threads would stay and take our signals."""
    try:
        answer: dict[str, Any] = process.in_child(lambda: _in_child(text), PATIENCE)
    except ProcessError as problem:
        raise ImageError(f"the Containerfile's parser failed: {problem.message}") from problem
    if answer.get("missing"):
        _check_library()
    return answer


def _check_library() -> None:
    """Raise AppPotError if the parser is not installed."""
    import importlib.util

    if not importlib.util.find_spec("dockerfile"):
        raise AppPotError(
            "the library 'dockerfile', which reads Containerfiles, is not installed",
            hint="pip install 'dockerfile>=3.4' (other processors than x86-64 need Go for it)",
        )


def _in_child(text: str) -> dict[str, Any]:
    """Parse; the result must fit into JSON."""
    import importlib

    try:
        dockerfile: Any = importlib.import_module("dockerfile")  # it has no types
    except ImportError:
        return {"missing": True, "error": "the library 'dockerfile' is missing"}

    def attempt(part: str) -> str:
        try:
            dockerfile.parse_string(part)
        except dockerfile.GoParseError as problem:
            return str(problem)
        return ""

    try:
        commands = dockerfile.parse_string(text)
    except dockerfile.GoParseError as problem:
        # The library does not say where. Whatever is before the faulty instruction is right.
        lines = text.split("\n")
        good = len(lines) - 1
        while good > 0 and attempt("\n".join(lines[:good])) not in ("", _NO_INSTRUCTIONS):
            good -= 1
        return {"error": str(problem), "line": good + 1}
    return {
        "commands": [
            {
                "name": command.cmd,
                "trigger": command.sub_cmd,
                "json": command.json,
                "text": command.original,
                "line": command.start_line,
                "flags": command.flags,
                "words": command.value,
                "heredocs": [(doc.name, doc.content) for doc in command.heredocs],
            }
            for command in commands
        ]
    }


def _complaint(name: str, text: str, answer: dict[str, Any]) -> UsageError:
    """Return the error for what the parser said."""
    said = str(answer["error"])
    if said == _NO_INSTRUCTIONS:
        return error(name, 0, "has no instructions", "the first one is FROM IMAGE")
    line = int(answer.get("line", 0))
    lines = text.split("\n")
    while 0 < line <= len(lines) and lines[line - 1].strip()[:1] in ("", "#"):
        line += 1
    hint = "a heredoc ends with its name alone on a line" if "heredoc" in said else ""
    return error(name, min(line, len(lines)), said, hint)


def _instruction(command: dict[str, Any]) -> Instruction:
    """Return the parser's command as an instruction."""
    words = tuple(command["words"])
    heredocs = _heredocs(words, command["heredocs"])
    flags = []
    for flag in command["flags"]:
        key, equals, value = flag.removeprefix("--").partition("=")
        flags.append((key, value if equals else None))
    return Instruction(
        name=command["name"].upper(),
        words=words,
        flags=tuple(flags),
        json=command["json"],
        heredocs=heredocs,
        text=command["text"].split("\n")[0] if heredocs else command["text"].replace("\n", " "),
        line=command["line"],
        trigger=(command["trigger"] or "").upper(),
    )


def _heredocs(words: tuple[str, ...], found: list[tuple[str, str]]) -> tuple[Heredoc, ...]:
    """Return the heredocs with what their opening words say: <<- and quoted names."""
    if not found:
        return ()
    opened: dict[str, tuple[bool, bool]] = {}
    for word in (part for text in words for part in text.split()):
        if match := _HEREDOC.match(word):
            plain = match[2].strip("\"'")
            opened[plain] = bool(match[1]), plain != match[2]
    made = []
    for name, content in found:
        chomp, literal = opened.get(name, (False, False))
        text = re.sub(r"(?m)^\t+", "", content) if chomp else content
        made.append(Heredoc(name, text, literal))
    return tuple(made)
