"""The command line of `apppot-start`, as the original read it: options end at the first word."""

from __future__ import annotations

import os

from apppot.errors import UsageError
from apppot.lean import TYPE_CHECKING, dataclass, replace
from apppot.machine.limits import MIB, parse_size

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DEFAULT_MEMORY = "512M"
SMALLEST_MEMORY = 64 * MIB
LONGEST_EXTRA = 2048  # characters; the kernel's command line has 4096
# What the machine itself needs of the kernel's command line, or what would stop it from booting.
_OURS = ("mem", "ncpus", "seccomp", "init", "rdinit", "root", "rootfstype", "panic")
_OURS_PREFIX = ("con", "ssl", "ubd", "hostfs", "hostpipe", "initrd", "umid", "uml_dir", "apppot.")

USAGE = """\
usage: apppot-start [OPTION...] [--] [PROGRAM [ARGUMENT...]]

Run a program in an AppPot machine, with the current folder at /home/user/job. Without a program:
./apppot-run if it is there and executable, else apppot-autorun of the image, else a shell.

  --apppot, --image IMAGE     a disk image or the name of an image ($APPPOT_IMAGE, ./apppot.img)
  --apppot, --image COW,IMAGE also COW:IMAGE: keep what is changed in the file COW
  --changes, --merge FILE     merge an archive of apppot-snap before the program starts
  --mem SIZE                  memory, as 512M or 2G ($APPPOT_MEM, 512M)
  --extra, -X TEXT            add to the guest kernel's command line; can be given again
  --id, --umid NAME           the machine's host name
  --linux, --kernel, --uml FILE, --slirp FILE
                              accepted; AppPot has a kernel and a network of its own
  --version, -V; --help, -h

This is the command of the original AppPot; 'apppot run' can do more."""


@dataclass(frozen=True)
class StartOptions:
    """What the command line and the environment say; '' for what they do not say."""

    image: str = ""
    changes: str = ""
    memory: str = DEFAULT_MEMORY
    extra: tuple[str, ...] = ()
    ident: str = ""
    kernel: str = ""
    command: tuple[str, ...] = ()
    action: str = "run"  # or help, version


_VALUES = {
    "--apppot": "image",
    "--image": "image",
    "--changes": "changes",
    "--merge": "changes",
    "--mem": "memory",
    "--extra": "extra",
    "-X": "extra",
    "--id": "ident",
    "--umid": "ident",
    "--linux": "kernel",
    "--kernel": "kernel",
    "--uml": "kernel",
    "--slirp": "slirp",
}
_ACTIONS = {"-h": "help", "--help": "help", "-V": "version", "--version": "version"}


def parse(words: Sequence[str], environ: Mapping[str, str]) -> StartOptions:
    """Return what is asked for; raises UsageError."""
    found = StartOptions(
        image=environ.get("APPPOT_IMAGE", ""), memory=environ.get("APPPOT_MEM") or DEFAULT_MEMORY
    )
    left = list(words)
    while left and left[0].startswith("-") and left[0] != "-":
        word = left.pop(0)
        if word == "--":
            break
        if word in _ACTIONS:
            return replace(found, action=_ACTIONS[word])
        name, equals, value = word.partition("=")
        if name not in _VALUES:
            raise UsageError(f"unknown option '{word}'", hint="see 'apppot-start --help'")
        if not equals:
            if not left:
                raise UsageError(f"{word} needs a value", hint="see 'apppot-start --help'")
            value = left.pop(0)
        found = _set(found, _VALUES[name], value)
    return replace(found, command=tuple(left))


def _set(found: StartOptions, field: str, value: str) -> StartOptions:
    if field == "extra":
        return replace(found, extra=(*found.extra, value))
    if field == "slirp":  # passt does its work
        return found
    changed: StartOptions = replace(found, **{field: value})  # type: ignore[arg-type]
    return changed


def memory(text: str) -> int:
    """Return the guest's memory in bytes; raises UsageError."""
    size = parse_size(text)
    if size < SMALLEST_MEMORY:
        raise UsageError(f"--mem {text}: a machine needs 64M or more", hint="write 512M or 2G")
    return size


def kernel_words(extra: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the texts for the kernel's command line, and those that it must not have.

    Raises UsageError.
    """
    good: list[str] = []
    bad: list[str] = []
    for text in extra:
        if not text.isprintable() or not text.isascii():
            raise UsageError(f"--extra {text!r}: only printable ASCII can be passed to the kernel")
        if not text.strip():
            continue
        taken = [word for word in text.split() if _is_ours(word)]
        (bad if taken else good).append(text)
    if len(" ".join(good)) > LONGEST_EXTRA:
        raise UsageError(
            f"--extra: {len(' '.join(good))} characters are too many for the kernel's command line",
            hint=f"it takes {LONGEST_EXTRA}; put more into a file of the job folder",
        )
    return tuple(good), tuple(bad)


def _is_ours(word: str) -> bool:
    return word.partition("=")[0] in _OURS or word.startswith(_OURS_PREFIX)


def split_image(text: str) -> tuple[str, str]:
    """Return the file of changes ('' if there is none) and the image that `--apppot` names.

    A name with a colon may also be an image of a store: it is a pair only if its second part is a
    file, or its first is one or ends with .cow.
    """
    if os.path.exists(text):
        return "", text
    first, comma, second = text.partition(",")
    if comma:
        return _pair(text, first, second)
    first, colon, second = text.partition(":")
    if colon and (os.path.exists(second) or os.path.exists(first) or first.endswith(".cow")):
        return _pair(text, first, second)
    return "", text


def _pair(text: str, first: str, second: str) -> tuple[str, str]:
    if not first or not second:
        raise UsageError(f"--apppot {text}: not of the form COW,IMAGE")
    return first, second
