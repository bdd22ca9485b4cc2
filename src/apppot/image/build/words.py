"""Variables and quotes in a Containerfile's words, by the rules of BuildKit's shell lexer."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

SPECIAL = "@*#?-$!0"


class WordError(ValueError):
    """A word that cannot be expanded; the text says why."""


def expand(text: str, variables: Mapping[str, str], escape: str = "\\") -> str:
    """Return a word with its variables filled in and its quotes removed; raises WordError."""
    return _Lexer(text, variables, escape).until("")


def expand_raw(text: str, variables: Mapping[str, str], escape: str = "\\") -> str:
    """Return a text with its variables filled in; quotes stay, as in a heredoc."""
    return _Lexer(text, variables, escape, quotes=False).until("")


class _Lexer:
    """Go through a text once, from left to right."""

    def __init__(
        self, text: str, variables: Mapping[str, str], escape: str, *, quotes: bool = True
    ) -> None:
        self._text = text
        self._at = 0
        self._variables = variables
        self._escape = escape
        self._quotes = quotes

    def _peek(self) -> str:
        return self._text[self._at : self._at + 1]

    def _next(self) -> str:
        found = self._peek()
        self._at += 1
        return found

    def until(self, stop: str, *, raw: bool = False) -> str:
        """Return everything up to `stop` ('': the end). `raw` keeps escapes, for patterns."""
        result: list[str] = []
        while char := self._peek():
            if char == stop:
                self._at += 1
                return "".join(result)
            if char == "$":
                result.append(self._dollar())
            elif self._quotes and char == "'":
                result.append(self._single())
            elif self._quotes and char == '"':
                result.append(self._double(raw=raw))
            else:
                self._at += 1
                if char == self._escape:
                    following = self._next()
                    # In a heredoc only what would be special can be escaped.
                    if raw or not (self._quotes or following in ("$", self._escape)):
                        result.append(char)
                    char = following
                result.append(char)
        if stop:
            raise WordError(f"there is no closing '{stop}'")
        return "".join(result)

    def _single(self) -> str:
        end = self._text.find("'", self._at + 1)
        if end < 0:
            raise WordError("there is no closing single quote")
        found = self._text[self._at + 1 : end]
        self._at = end + 1
        return found

    def _double(self, *, raw: bool) -> str:
        self._at += 1
        result: list[str] = []
        while char := self._peek():
            if char == '"':
                self._at += 1
                return "".join(result)
            if char == "$":
                result.append(self._dollar())
                continue
            self._at += 1
            if char == self._escape:
                following = self._peek()
                if raw:
                    result.append(char)
                if not following:
                    break
                if following in ('"', "$", self._escape):
                    char = self._next()
                elif raw:
                    continue
            result.append(char)
        raise WordError("there is no closing double quote")

    def _name(self) -> str:
        if self._peek().isdigit():
            pattern = r"\d+"
        elif self._peek() and self._peek() in SPECIAL:
            return self._next()
        else:
            pattern = r"\w*"
        found = re.compile(pattern).match(self._text, self._at)
        name = found[0] if found else ""
        self._at += len(name)
        return name

    def _dollar(self) -> str:
        self._at += 1
        if self._peek() != "{":
            name = self._name()
            return self._variables.get(name, "") if name else "$"
        self._at += 1
        if not self._peek():
            raise WordError("${ has no closing }")
        if self._peek() in "{}:":
            raise WordError(f"${{{self._peek()} is no variable")
        name = self._name()
        operator = self._next()
        if operator == "}":
            return self._variables.get(name, "")
        if operator == ":":
            operator += self._next()
        if operator in ("-", "+", "?", ":-", ":+", ":?"):
            return self._conditional(name, operator)
        if operator in ("#", "%"):
            return self._trimmed(name, operator)
        if operator == "/":
            return self._replaced(name)
        if not operator:
            raise WordError("${ has no closing }")
        raise WordError(f"${{{name}{operator}...}} is not known")

    def _closed(self, stop: str, *, raw: bool = False) -> str:
        try:
            return self.until(stop, raw=raw)
        except WordError as error:
            if not self._peek():
                raise WordError("${ has no closing }") from error
            raise

    def _conditional(self, name: str, operator: str) -> str:
        word = self._closed("}")
        value = self._variables.get(name)
        there = bool(value) if operator.startswith(":") else value is not None
        if operator.endswith("+"):
            return word if there else ""
        if there:
            return value or ""
        if operator.endswith("-"):
            return word
        raise WordError(f"{name}: {word or 'is not set'}")

    def _trimmed(self, name: str, operator: str) -> str:
        greedy = self._peek() == operator
        if greedy:
            self._at += 1
        word = self._closed("}", raw=True)
        value = self._variables.get(name, "")
        pattern = re.compile(glob_expression(word), re.DOTALL)
        if operator == "#":
            ends = range(len(value) + 1)
            for end in reversed(ends) if greedy else ends:
                if pattern.fullmatch(value, 0, end):
                    return value[end:]
            return value
        starts = range(len(value) + 1)
        for start in starts if greedy else reversed(starts):
            if pattern.fullmatch(value, start):
                return value[:start]
        return value

    def _replaced(self, name: str) -> str:
        everywhere = self._peek() == "/"
        if everywhere:
            self._at += 1
        pattern = self._closed("/", raw=True)
        replacement = self._closed("}", raw=True)
        value = self._variables.get(name, "")
        found = re.compile(glob_expression(pattern), re.DOTALL)
        return found.sub(lambda _: replacement, value, count=0 if everywhere else 1)


def glob_expression(pattern: str) -> str:
    r"""Return the regular expression of a shell pattern with *, ? and \."""
    result = []
    at = 0
    while at < len(pattern):
        char = pattern[at]
        at += 1
        if char == "\\" and at < len(pattern):
            result.append(re.escape(pattern[at]))
            at += 1
        else:
            result.append({"*": ".*", "?": "."}.get(char, re.escape(char)))
    return "".join(result)
