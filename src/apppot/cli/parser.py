"""The command line's grammar: one parser per verb, made only for the verb that is called."""

from __future__ import annotations

import argparse
import importlib
import os

from apppot import __version__
from apppot.cli import VERBS
from apppot.errors import UsageError
from apppot.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType
    from typing import NoReturn


# For its few words it would load `locale` and look for translations, of which there are none.
vars(argparse)["_"] = str


class Parser(argparse.ArgumentParser):
    """An argument parser that raises UsageError, so that one place decides on exit statuses."""

    def _get_formatter(self) -> argparse.HelpFormatter:
        # Made for each option that is added: argparse would load shutil to learn the width.
        return argparse.RawDescriptionHelpFormatter(self.prog, width=_columns())

    def error(self, message: str) -> NoReturn:
        """Raise UsageError, with the verb's synopsis as the hint."""
        raise UsageError(f"{message}", hint=f"see '{self.prog} --help'")


def _columns() -> int:
    """Return how many columns a help text may have."""
    try:
        return int(os.environ.get("COLUMNS", "")) - 2
    except ValueError:
        pass
    try:
        return os.get_terminal_size(1).columns - 2
    except OSError:
        return 78


def verb_parser(verb: str) -> tuple[ModuleType, Parser]:
    """Return a verb's module and its parser."""
    module = importlib.import_module(f"apppot.cli.{verb}")
    parser = Parser(
        prog=f"apppot {verb}",
        description=module.__doc__,
        allow_abbrev=False,
    )
    module.configure(parser)
    return module, parser


def usage() -> str:
    """Return the text of `apppot --help`."""
    width = max(map(len, VERBS))
    verbs = "\n".join(f"  {verb:{width}}  {what}" for verb, what in VERBS.items())
    return f"usage: apppot VERB [OPTION...]\n\n{verbs}\n\n'apppot VERB --help' tells more.\n"


def parse(arguments: list[str]) -> tuple[ModuleType, argparse.Namespace]:
    """Return the verb's module and its options; raises UsageError."""
    if not arguments:
        raise UsageError("no verb given", hint="see 'apppot --help'")
    verb, *rest = arguments
    if verb in ("-h", "--help", "help"):
        print(usage(), end="")
        raise SystemExit(0)
    if verb in ("-V", "--version"):
        print(f"apppot {__version__}")
        raise SystemExit(0)
    if verb not in VERBS:
        import difflib  # for the hint alone

        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else "see 'apppot --help'"
        raise UsageError(f"there is no verb '{verb}'", hint=hint)
    module, parser = verb_parser(verb)
    command: list[str] = []
    if getattr(module, "TAKES_COMMAND", False):
        rest, command = split_command(parser, rest)
    options = parser.parse_args(rest)
    options.command = command
    return module, options


def split_command(parser: Parser, words: list[str]) -> tuple[list[str], list[str]]:
    """Cut the words after a verb into its own and the payload's.

    The verb's own end with its first operand; one `--` after it is ours, everything else is the
    payload's, byte for byte. (argparse's REMAINDER loses a `--` of the payload.)
    """
    position = 0
    while position < len(words) and words[position].startswith("-") and words[position] != "--":
        position += 1 + takes_value(parser, words[position])
    if words[position : position + 1] == ["--"]:
        position += 1
    own, command = words[: position + 1], words[position + 1 :]
    return own, command[1:] if command[:1] == ["--"] else command


def takes_value(parser: Parser, word: str) -> bool:
    """Tell whether the next word belongs to an option (`--memory 1G`, not `--memory=1G` or -v)."""
    actions = parser._option_string_actions  # noqa: SLF001  argparse offers no other way
    if word.startswith("--"):
        action = actions.get(word)
        return action is not None and action.nargs is None
    for at, letter in enumerate(word[1:], 1):  # -tv, -uroot, -u root
        action = actions.get("-" + letter)
        if action is None or action.nargs is None:
            return action is not None and at == len(word) - 1
    return False
