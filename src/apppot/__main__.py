"""Parse the command line, call the verb, turn errors into exit statuses."""

from __future__ import annotations

import gc
import os
import signal
import sys

# Before the slower imports: a ^C in the first moments is no reason for a traceback.
_INTERRUPTIBLE = signal.getsignal(signal.SIGINT) is signal.default_int_handler
if _INTERRUPTIBLE:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from apppot.cli import PAYLOAD_VERBS  # noqa: E402
from apppot.errors import AppPotError, ExitStatus, UsageError  # noqa: E402


def main(arguments: list[str]) -> int:
    """Run `apppot ARGUMENTS` and return its exit status."""
    from apppot.cli.parser import parse

    for_payload = _verb(arguments) in PAYLOAD_VERBS
    own_failure = ExitStatus.MACHINE if for_payload else ExitStatus.FAILURE
    try:
        if _INTERRUPTIBLE:  # verbs clean up after it
            signal.signal(signal.SIGINT, signal.default_int_handler)
        module, options = parse(arguments)
        status: int = module.main(options)
        sys.stdout.flush()
    except UsageError as error:
        print(f"apppot: {error}", file=sys.stderr)
        return own_failure if for_payload else ExitStatus.USAGE
    except AppPotError as error:
        print(f"apppot: {error}", file=sys.stderr)
        return error.status or own_failure
    except ModuleNotFoundError as error:
        print(f"apppot: {_missing(error)}", file=sys.stderr)
        return own_failure
    except KeyboardInterrupt:
        return ExitStatus.SIGNAL_BASE + 2
    except BrokenPipeError:
        sys.stdout = None  # nobody reads; do not flush at exit
        return ExitStatus.SIGNAL_BASE + 13
    return status


def _missing(error: ModuleNotFoundError) -> AppPotError:
    """Return what to say where only Python itself is: on a node, in a bundle."""
    library = (error.name or "").partition(".")[0]
    if library in ("", "apppot"):
        raise error
    return AppPotError(
        f"this needs the Python library '{library}', which is not here",
        hint="'apppot run' of what is in a store needs none; else install AppPot with pip",
    )


def _verb(arguments: list[str]) -> str:
    return next((word for word in arguments if not word.startswith("-")), "")


def fill_closed_streams() -> None:
    """Open /dev/null in the place of each standard stream that the caller has closed.

    Otherwise the next file that is opened takes its number, and the payload's output goes there.
    """
    for descriptor in range(3):
        try:
            os.fstat(descriptor)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)
    sys.stdout = sys.stdout or open(os.devnull, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(os.devnull, "w")  # noqa: SIM115


def entry() -> None:
    """Be the installed command."""
    fill_closed_streams()
    gc.set_threshold(50_000)  # a start makes many objects and throws none away
    status = main(sys.argv[1:])
    if _verb(sys.argv[1:]) not in PAYLOAD_VERBS:
        sys.exit(status)
    # The payload is over: its user does not wait for the interpreter to take itself apart (5 ms).
    # These verbs leave no thread and no exit handler behind.
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except OSError:
            status = status or ExitStatus.MACHINE
    os._exit(status)


if __name__ == "__main__":
    entry()
