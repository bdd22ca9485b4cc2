"""What is to be undone after a machine whose launcher was killed: noted in the machine's folder.

For hypervisors that keep machines by themselves. The note is followed at the normal end, too.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil

from apppot import process
from apppot.errors import ProcessError
from apppot.lean import TYPE_CHECKING
from apppot.machine.rundir import UNDO

if TYPE_CHECKING:
    from collections.abc import Sequence

FOLDER = "apppot-run-"  # what names of folders for a run's large files begin with
_PATIENCE = 60.0


def write(
    folder: str,
    commands: Sequence[Sequence[str]],
    folders: Sequence[str],
    settings: dict[str, str] | None = None,
) -> None:
    """Note programs to run, with `settings` in their environment, and folders to remove then."""
    aside = os.path.join(folder, UNDO + ".new")
    content = {"commands": commands, "folders": folders, "settings": settings or {}}
    with open(aside, "w", encoding="utf-8") as file:
        json.dump(content, file)
    os.rename(aside, os.path.join(folder, UNDO))


def act(folder: str) -> None:
    """Do what is noted in a machine's folder, if anything; what fails has been done already."""
    path = os.path.join(folder, UNDO)
    try:
        with open(path, encoding="utf-8") as file:
            note = json.load(file)
    except (OSError, ValueError):
        return
    environment = process.clean_environment(note["settings"])
    for command in note["commands"]:
        with contextlib.suppress(ProcessError):
            process.run(command, check=False, timeout=_PATIENCE, env=environment)
    for each in note["folders"]:
        # Whatever is in the note: only what this module may have been told is removed.
        if re.match(re.escape(FOLDER) + r"[0-9a-f]{8}\Z", os.path.basename(each)):
            shutil.rmtree(each, ignore_errors=True)
    with contextlib.suppress(OSError):
        os.unlink(path)
