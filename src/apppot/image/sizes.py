"""Sizes for people to read."""

from __future__ import annotations


def human(size: int) -> str:
    """Return a size in decimal units, three digits at least."""
    amount = float(size)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:  # noqa: PLR2004
            return f"{amount:.0f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"
