"""Be `apppot ARGUMENT...`, and tell on standard error when each step was done (profile_start.py).

Functions at which a step begins or ends are wrapped from outside; nothing of that is in AppPot.
"""

from __future__ import annotations

import sys
import time

up = time.time_ns()

import apppot.cli.run  # noqa: E402, F401  as if for the verb
from apppot import (  # noqa: E402  the time before has been taken
    __main__,
    kit,
    run,
)
from apppot.agent import frames  # noqa: E402
from apppot.image import store  # noqa: E402
from apppot.lean import TYPE_CHECKING  # noqa: E402
from apppot.machine import probes, rundir, uml  # noqa: E402, F401
from apppot.machine.engine import Machine  # noqa: E402

if TYPE_CHECKING:
    from typing import Any

marks = {"python is up": up, "modules loaded": time.time_ns()}


def mark(name: str) -> None:
    """Note the time of the first occurrence of a step."""
    marks.setdefault(name, time.time_ns())


def wrap(owner: Any, name: str, before: str = "", after: str = "") -> None:
    """Note when a function is called, and when it returns."""
    inner = getattr(owner, name)

    def outer(*args: Any, **named: Any) -> Any:
        if before:
            mark(before)
        result = inner(*args, **named)
        if after:
            mark(after)
        return result

    setattr(owner, name, outer)


def listen() -> None:
    """Note when each kind of frame first comes."""
    filled = frames.Decoder.filled

    def listening(self: frames.Decoder, amount: int) -> list[frames.Frame]:
        found = filled(self, amount)
        for frame in found:
            mark(frame.kind.name)
        return found

    frames.Decoder.filled = listening  # type: ignore[method-assign]


def main() -> None:
    """Run, and tell."""
    import gc
    import os

    gc.set_threshold(50_000)  # as __main__.entry does
    wrap(run, "identity", before="options parsed")
    wrap(store, "resolve", after="image resolved")
    wrap(kit, "find", after="kit found")
    wrap(uml.UmlEngine, "_start_passt", after="passt started")
    wrap(uml.UmlEngine, "start", after="kernel started")
    wrap(rundir.RunDir, "record", before="driver loaded")
    wrap(Machine, "reap", after="machine reaped")
    wrap(run, "run", after="run() returned")
    listen()
    status = __main__.main(sys.argv[1:])
    sys.stdout.flush()
    text = "".join(f"profile: {name}={when}\n" for name, when in marks.items())
    print(text, end="", file=sys.stderr, flush=True)
    os._exit(status)


main()
