"""Parse the command line, call the verb, turn errors into exit statuses."""

from __future__ import annotations

import sys

from apppot.cli import PAYLOAD_VERBS
from apppot.errors import AppPotError, ExitStatus, UsageError


def main(arguments: list[str]) -> int:
    """Run `apppot ARGUMENTS` and return its exit status."""
    from apppot.cli.parser import parse

    verb = next((word for word in arguments if not word.startswith("-")), "")
    own_failure = ExitStatus.MACHINE if verb in PAYLOAD_VERBS else ExitStatus.FAILURE
    try:
        module, options = parse(arguments)
        status: int = module.main(options)
        sys.stdout.flush()
    except UsageError as error:
        print(f"apppot: {error}", file=sys.stderr)
        return own_failure if verb in PAYLOAD_VERBS else ExitStatus.USAGE
    except AppPotError as error:
        print(f"apppot: {error}", file=sys.stderr)
        return error.status or own_failure
    except KeyboardInterrupt:
        return ExitStatus.SIGNAL_BASE + 2
    except BrokenPipeError:
        sys.stdout = None  # nobody reads; do not flush at exit
        return ExitStatus.SIGNAL_BASE + 13
    return status


def entry() -> None:
    """Be the installed command."""
    sys.exit(main(sys.argv[1:]))


if __name__ == "__main__":
    entry()
