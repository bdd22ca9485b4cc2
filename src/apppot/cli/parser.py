"""The command line's grammar: one parser per verb, made only for the verb that is called."""

from __future__ import annotations

import argparse
import importlib
from typing import TYPE_CHECKING, NoReturn

from apppot import __version__
from apppot.cli import VERBS
from apppot.errors import UsageError

if TYPE_CHECKING:
    from types import ModuleType


class Parser(argparse.ArgumentParser):
    """An argument parser that raises UsageError, so that one place decides on exit statuses."""

    def error(self, message: str) -> NoReturn:
        """Raise UsageError, with the verb's synopsis as the hint."""
        raise UsageError(f"{message}", hint=f"see '{self.prog} --help'")


def verb_parser(verb: str) -> tuple[ModuleType, Parser]:
    """Return a verb's module and its parser."""
    module = importlib.import_module(f"apppot.cli.{verb}")
    parser = Parser(
        prog=f"apppot {verb}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
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
        import difflib  # noqa: PLC0415  for the hint alone

        near = difflib.get_close_matches(verb, VERBS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else "see 'apppot --help'"
        raise UsageError(f"there is no verb '{verb}'", hint=hint)
    module, parser = verb_parser(verb)
    return module, parser.parse_args(rest)
