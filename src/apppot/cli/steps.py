"""Show the steps of a build, one line each; what they print themselves comes in between."""

from __future__ import annotations

import sys


class Steps:
    """Lines on standard error; nothing but notes if it is to be quiet."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet

    def step(self, number: int, total: int, text: str) -> None:
        """Say what is done now."""
        self._print(f"STEP {number}/{total}: {text}")

    def cached(self) -> None:
        """Say that its result was known."""
        self._print("  cached")

    def done(self, seconds: float) -> None:
        """Say how long it took."""
        self._print(f"  {seconds:.1f} s")

    def note(self, text: str) -> None:
        """Say something that stays, also when quiet."""
        print(f"apppot: {text}", file=sys.stderr, flush=True)

    def _print(self, text: str) -> None:
        if not self._quiet:
            print(text, file=sys.stderr, flush=True)
