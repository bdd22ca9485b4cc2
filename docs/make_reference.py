#!/usr/bin/env python3
"""Write docs/reference/verbs/*.md from the verbs' own parsers; with --check, only compare."""

from __future__ import annotations

import argparse
import os
import re
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = os.path.dirname(os.path.abspath(__file__))
FOLDER = os.path.join(HERE, "reference", "verbs")
_NOTE = "<!-- Made by docs/make_reference.py from the verb's parser. Do not edit. -->"
# Defaults that a caller's environment could change.
_ENVIRONMENT = ("APPPOT_MEMORY", "APPPOT_ENGINE")


def pages() -> dict[str, str]:
    """Return every page's name and text."""
    for name in _ENVIRONMENT:
        os.environ.pop(name, None)
    os.environ |= {"APPPOT_CONFIG": os.devnull, "XDG_CONFIG_HOME": os.devnull}
    from apppot.cli import VERBS
    from apppot.cli.parser import verb_parser

    made = {f"{verb}.md": _page(verb, verb_parser(verb)[1]) for verb in VERBS}
    made["index.md"] = _index(VERBS)
    return made


def _index(verbs: dict[str, str]) -> str:
    rows = "\n".join(f"| [`apppot {verb}`]({verb}.md) | {what} |" for verb, what in verbs.items())
    return f"{_NOTE}\n\n# The verbs\n\n| verb | what it does |\n| --- | --- |\n{rows}\n"


def _page(verb: str, parser: argparse.ArgumentParser) -> str:
    blocks = [_NOTE, f"# apppot {verb}", *_parser(parser)]
    return "\n\n".join(blocks) + "\n"


def _parser(parser: argparse.ArgumentParser) -> Iterator[str]:
    yield f"```\n{_usage(parser)}\n```"
    if parser.description:
        yield _description(parser.description)
    for group in parser._action_groups:
        actions = [action for action in group._group_actions if _shown(action)]
        rows = [_row(action) for action in actions]
        if rows:
            title = {"positional arguments": "Operands", "options": "Options"}.get(
                group.title or "", (group.title or "").capitalize()
            )
            yield f"**{title}**"
            yield "\n".join(["| | |", "| --- | --- |", *rows])
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, child in action.choices.items():
                yield f"## {parser.prog} {name}"
                yield from _parser(child)


def _shown(action: argparse.Action) -> bool:
    return action.help != argparse.SUPPRESS and not isinstance(action, argparse._HelpAction)


def _usage(parser: argparse.ArgumentParser) -> str:
    """Return the synopsis, with all options as one word."""
    if parser.usage:
        return parser.usage
    words = [parser.prog]
    if any(action.option_strings and _shown(action) for action in parser._actions):
        words.append("[OPTION...]")
    words += [_operand(action) for action in parser._actions if not action.option_strings]
    return " ".join(words)


def _operand(action: argparse.Action) -> str:
    name = _value(action)
    if action.nargs in ("*", argparse.REMAINDER):
        return f"[{name}...]"
    if action.nargs == "+":
        return f"{name}..."
    if isinstance(action, argparse._SubParsersAction):
        return f"{name} [OPTION...]"
    return f"[{name}]" if action.nargs == "?" else name


def _value(action: argparse.Action) -> str:
    if isinstance(action.metavar, str):
        return action.metavar
    if action.choices is not None:
        return "|".join(map(str, action.choices))
    return action.dest.upper()


def _row(action: argparse.Action) -> str:
    if isinstance(action, argparse._SubParsersAction):
        return "\n".join(
            f"| `{choice.dest}` | {_text(choice.help or '')} |"
            for choice in action._choices_actions
        )
    if not action.option_strings:
        return f"| `{_value(action)}` | {_text(action.help or '')} |"
    value = f" {_value(action)}" if action.nargs != 0 else ""
    names = ", ".join(f"`{name}{value}`" for name in action.option_strings)
    return f"| {names.replace('|', chr(92) + '|')} | {_text(action.help or '')} |"


def _text(text: str) -> str:
    """Return a help text as a table's cell."""
    return " ".join(text.replace("%%", "%").split()).replace("|", "\\|")


def _description(text: str) -> str:
    """Return a description; lines that begin with a command become a code block."""
    commands = re.compile(r"((?:^apppot .*\n?)+)", re.MULTILINE)
    return commands.sub(lambda found: f"```\n{found[1].rstrip()}\n```\n", text).strip()


def main(arguments: list[str]) -> int:
    """Write or compare the pages; return the exit status."""
    check = arguments == ["--check"]
    if arguments and not check:
        print("usage: docs/make_reference.py [--check]", file=sys.stderr)
        return 2
    wanted = pages()
    os.makedirs(FOLDER, exist_ok=True)
    there = set(os.listdir(FOLDER))
    differing = sorted(there - set(wanted))
    for name, text in wanted.items():
        path = os.path.join(FOLDER, name)
        if name in there:
            with open(path, encoding="utf-8") as file:
                if file.read() == text:
                    continue
        differing.append(name)
        if not check:
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
    if not check:
        for name in there - set(wanted):
            os.unlink(os.path.join(FOLDER, name))
        return 0
    for name in differing:
        print(f"docs/reference/verbs/{name} is out of date: run docs/make_reference.py")
    return 1 if differing else 0


if __name__ == "__main__":
    sys.path.insert(0, os.path.join(os.path.dirname(HERE), "src"))
    raise SystemExit(main(sys.argv[1:]))
