"""Options of runs whose machines can be saved."""

from __future__ import annotations

import signal

from apppot.errors import UsageError
from apppot.lean import TYPE_CHECKING
from apppot.request import Checkpoint

if TYPE_CHECKING:
    import argparse

_SIGNALS = ("HUP", "INT", "QUIT", "TERM", "USR1", "USR2")
_MODELS = ("x86-64-v2", "x86-64-v3")


def add_checkpoint_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of `run` that make a machine one that can be saved."""
    group = parser.add_argument_group("checkpoints")
    group.add_argument(
        "--checkpoint-dir",
        metavar="DIR",
        help="let the machine be saved in DIR, by 'apppot checkpoint' (engines kvm and tcg)",
    )
    add_signal_option(group)
    group.add_argument(
        "--stage",
        action="store_true",
        help="copy /job and --bind folders into the machine, and what has changed out at the end",
    )
    group.add_argument(
        "--cpu-model",
        choices=_MODELS,
        help="what the payload may use of the processor, so that another host can go on (the best)",
    )


def add_signal_option(group: argparse._ActionsContainer) -> None:
    """Add the option of the signal that asks for a checkpoint."""
    group.add_argument(
        "--checkpoint-on",
        type=_signal,
        metavar="SIGNAL",
        help="save the machine and end with status 85 when this comes (USR1)",
    )


def checkpoint_from(options: argparse.Namespace) -> Checkpoint | None:
    """Return what the options say of checkpoints, None if there are to be none.

    Raises UsageError if they make no sense without a folder: a job would not be saved after all.
    """
    if options.checkpoint_dir is None:
        for name in ("checkpoint_on", "cpu_model"):
            if getattr(options, name):
                raise UsageError(
                    f"--{name.replace('_', '-')} is for machines that can be saved",
                    hint="name the folder for that with --checkpoint-dir",
                )
        return None
    if not options.checkpoint_dir:
        raise UsageError("--checkpoint-dir '': that is no folder's name")
    model = None
    if options.cpu_model:
        from apppot.machine.cpumodel import CpuModel

        model = CpuModel(options.cpu_model)
    return Checkpoint(options.checkpoint_dir, options.checkpoint_on, model)


def _signal(text: str) -> int:
    name = text.upper().removeprefix("SIG")
    if name not in _SIGNALS:
        raise UsageError(
            f"--checkpoint-on {text}: this signal cannot ask for a checkpoint",
            hint=f"choose one of {', '.join(_SIGNALS)}",
        )
    return int(signal.Signals[f"SIG{name}"])
