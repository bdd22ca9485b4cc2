"""Which files of a build context .dockerignore leaves out: the rules of Docker's own matcher."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass

from apppot.errors import UsageError


@dataclass(frozen=True)
class Rule:
    """A line: what matches is left out, or (`keep`) stays after all."""

    pattern: re.Pattern[str]
    keep: bool


@dataclass(frozen=True)
class Rules:
    """All lines of a file, in order: the last one that matches decides."""

    lines: tuple[Rule, ...] = ()

    @property
    def exceptions(self) -> bool:
        """Tell whether something below an ignored folder may stay."""
        return any(rule.keep for rule in self.lines)

    def ignores(self, path: str) -> bool:
        """Tell whether a path (relative, without './') is left out, by itself or its folder."""
        ignored = False
        names = path.split("/")
        parents = ["/".join(names[:count]) for count in range(len(names), 0, -1)]
        for rule in self.lines:
            if ignored != rule.keep:  # it could change nothing
                continue
            if any(rule.pattern.fullmatch(parent) for parent in parents):
                ignored = not rule.keep
        return ignored


def parse(text: str, name: str = ".dockerignore") -> Rules:
    """Return the rules of a file; raises UsageError."""
    lines = []
    for number, raw in enumerate(text.removeprefix("\ufeff").split("\n"), 1):
        line = raw.rstrip("\r")
        if line.startswith("#"):
            continue
        line = line.strip()
        keep = line.startswith("!")
        pattern = line[1:].strip() if keep else line
        if not pattern:
            if keep:
                raise UsageError(f"{name}:{number}: '!' stands alone", hint="!PATTERN keeps a file")
            continue
        clean = posixpath.normpath(pattern)
        clean = clean.lstrip("/") if len(clean) > 1 else clean
        if clean in (".", "/"):
            continue
        try:
            lines.append(Rule(re.compile(expression(clean), re.DOTALL), keep))
        except (re.error, ValueError) as problem:
            raise UsageError(f"{name}:{number}: '{line}' is no pattern: {problem}") from problem
    return Rules(tuple(lines))


def expression(pattern: str) -> str:
    """Return the regular expression of a pattern: `*` stops at slashes, `**` does not."""
    result = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "*" and pattern[at : at + 1] == "*":
            at += 1
            if pattern[at : at + 1] == "/":
                at += 1
            result.append("(?:.*/)?" if at < len(pattern) else ".*")
        elif char == "*":
            result.append("[^/]*")
        elif char == "?":
            result.append("[^/]")
        elif char == "[":
            end, text = _class(pattern, at)
            result.append(text)
            at = end
        elif char == "\\" and at < len(pattern):
            result.append(re.escape(pattern[at]))
            at += 1
        else:
            result.append(re.escape(char))
    return "".join(result)


def _class(pattern: str, at: int) -> tuple[int, str]:
    """Return the end and the expression of a `[...]` that begins before `at`; raises ValueError."""
    inner = []
    negated = pattern[at : at + 1] == "^"
    at += negated
    first = True
    while at < len(pattern) and (pattern[at] != "]" or first):
        char = pattern[at]
        if char == "\\" and at + 1 < len(pattern):
            at += 1
            inner.append(re.escape(pattern[at]))
        else:
            inner.append(char if char == "-" else re.escape(char))
        at += 1
        first = False
    if at >= len(pattern):
        raise ValueError("there is no closing ]")
    return at + 1, f"(?!/)[{'^' * negated}{''.join(inner)}]"
