"""What the launcher costs: a kit whose machine ends at once, and Python's own list of imports."""

from __future__ import annotations

import os
import shutil
import sys
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

from apppot import kit as kits
from apppot.kit import manifest, verify
from bench.launch import Run, launch
from bench.series import CaseError, Goal, Sample, Section, take_turns

if TYPE_CHECKING:
    from bench.measures import Bench

_NOTHING = "int main(void) { return 3; }\n"


def hollow_kit(bench: Bench, folder: str) -> None:
    """Make a kit whose bin/confine ends at once; all else about it is in order.

    Which mode User-Mode Linux works in is remembered with the whole kit first, as on every
    computer where AppPot has run before.
    """
    shutil.copytree(kits.locate(), folder)
    extra = {"APPPOT_KIT": folder}
    launch([bench.apppot, "run", bench.image, "--", "true"], extra=extra, cwd=bench.share)
    source = os.path.join(bench.work, "nothing.c")
    with open(source, "w", encoding="utf-8") as file:
        file.write(_NOTHING)
    aside = os.path.join(bench.work, "nothing")
    launch(["gcc", "-O2", "-static", "-o", aside, source])
    os.replace(aside, os.path.join(folder, kits.CONFINE))
    known = manifest.load(folder)
    files = {name: verify.entry_of(os.path.join(folder, name)) for name in known.files}
    with open(os.path.join(folder, kits.MANIFEST), "w", encoding="utf-8") as file:
        file.write(manifest.render(manifest.Manifest(files=files)))


def imports(text: str) -> dict[str, tuple[int, int]]:
    """Return self and cumulative microseconds by module from `python -X importtime`."""
    found = {}
    for line in text.splitlines():
        if line.startswith("import time:") and "self [us]" not in line:
            own, total, name = line.removeprefix("import time:").split("|")
            found[name.strip()] = (int(own), int(total))
    return found


def after_site(found: dict[str, tuple[int, int]]) -> dict[str, tuple[int, int]]:
    """Leave out what the interpreter and the site load at each start, whatever is run."""
    names = list(found)
    first = names.index("site") + 1 if "site" in names else 0
    return {name: found[name] for name in names[first:]}


def foreign(found: dict[str, tuple[int, int]]) -> list[str]:
    """Return the modules that are neither ours nor of the standard library."""
    own = {*sys.stdlib_module_names, "apppot", "__main__", "sitecustomize"}
    others = sorted({name.split(".")[0] for name in found} - own)
    # Python lists what was looked for and is nowhere, too: names of other versions' modules.
    return [name for name in others if find_spec(name)]


def sections(bench: Bench) -> list[Section]:
    """Time the whole launcher around a machine that ends at once."""
    folder = os.path.join(bench.work, "hollow-kit")
    hollow_kit(bench, folder)
    extra = {"APPPOT_KIT": folder}
    words = [bench.apppot, "run", "--network", "none", bench.image, "--", "true"]

    def run(*before: str) -> Run:
        return launch([*before, *words], extra=extra, cwd=bench.share, expected=125)

    wall = Section(
        "Python part, launch to exit",
        "ms",
        note="`apppot run` with a kit whose machine ends at once: start of Python, imports, all"
        " work before the kernel's start and after its end, and the error message",
    )
    cpu = Section("Python part, user and system time", "ms", note="the same runs")
    bare = [sys.executable, "-c", "pass"]
    seconds: dict[str, list[float]] = {"apppot": [], "python -c pass": []}

    def timed(case: str) -> float:
        done = run() if case == "apppot" else launch(bare, cwd=bench.share)
        seconds[case].append(done.cpu)
        return 1e3 * done.seconds

    cases = {case: partial(timed, case) for case in seconds}
    take_turns(wall, cases, bench.runs, bench.said)
    for case, values in seconds.items():
        if values[1:]:
            cpu.samples[case] = Sample(tuple(1e3 * value for value in values[1:]))
    wall.at_most("apppot", 40)
    try:
        found = imports(run(sys.executable, "-X", "importtime").stderr.decode(errors="replace"))
    except CaseError as error:
        wall.missing["imports"] = str(error)
    else:
        strangers = foreign(after_site(found))
        text = ", ".join(strangers) or f"none in {len(found)} modules"
        wall.goals.append(Goal("no third-party import on the way to `run`", text, not strangers))
    return [wall, cpu]
