"""The error for an image that is not there: near names, and the command that would make it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apppot.errors import ImageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from apppot.image.reference import Reference
    from apppot.image.store import Entry, Store

DISTRIBUTIONS = ("debian", "ubuntu")


def not_found(
    wanted: Reference,
    searched: Sequence[tuple[Store, tuple[Entry, ...]]],
    problems: Sequence[str],
) -> ImageError:
    """Return the error; `problems` are the stores that could not be read."""
    message = f"there is no image '{wanted}' in " + (
        ", ".join(store.path for store, _ in searched) or "any store"
    )
    for problem in problems:
        message += f" ({problem})"
    names = sorted({e.reference for _, entries in searched for e in entries if e.reference})
    return ImageError(message, hint=_hint(wanted, names))


def _hint(wanted: Reference, names: Sequence[str]) -> str:
    """Return what to do: the likeliest first."""
    if wanted.digest and wanted.full in names:
        return f"'{wanted.full}' is there with another digest: see 'apppot inspect {wanted.full}'"
    near = _near(wanted, names)
    if near:
        return f"did you mean '{near}'?"
    host, slash, _ = wanted.name.partition("/")
    if slash and ("." in host or ":" in host or host == "localhost"):
        return f"fetch it with 'apppot pull {wanted}'"
    if wanted.name in DISTRIBUTIONS:
        suite = "SUITE" if wanted.tag == "latest" else wanted.tag
        return f"make it with 'apppot bootstrap {wanted.name}:{suite}'"
    if names:
        return "'apppot images' lists what there is"
    return "the stores are empty; make a first image with 'apppot bootstrap debian:SUITE'"


def _near(wanted: Reference, names: Sequence[str]) -> str:
    """Return the most similar name, or ''."""
    import difflib  # for the hint alone

    for name in names:  # the right name, only the tag is missing or plainly different
        if wanted.tag == "latest" and name.rpartition(":")[0] == wanted.name:
            return name
    # Strict enough that debian:bookworm is no answer to debian:buster.
    near = difflib.get_close_matches(wanted.full, names, n=1, cutoff=0.75)
    return near[0] if near else ""
