"""Run jobs by GC3Pie's own AppPotApplication, on this computer. Needs GC3Pie, not AppPot.

usage: gc3pie_job.py FOLDER JOB.json: `arguments`, `inputs`, `outputs`, and AppPotApplication's own
Prints the command line, the job's return code and its exit status as JSON.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

CONFIGURATION = """\
[auth/none]
type = none

[resource/here]
enabled = yes
type = shellcmd
auth = none
transport = local
frontend = localhost
max_cores = 2
max_cores_per_job = 2
max_memory_per_core = 4 GiB
max_walltime = 2 hours
architecture = x86_64
override = no
time_cmd = {time}
resourcedir = {folder}/gc3/resource
spooldir = {folder}/gc3/spool
"""
# GC3Pie wants GNU time. This one only starts the command and writes what GC3Pie reads.
TIME = """\
#!/bin/bash
while [[ $1 == -* ]]; do
    [[ $1 == -o ]] && { out=$2; shift; }
    [[ $1 == -f ]] && { format=$2; shift; }
    shift
done
"$@"
status=$?
echo "${format//%x/$status}" | sed 's/%[A-Za-z]/0/g' >"$out"
exit $status
"""


def main(folder: str, path: str) -> None:
    os.environ["HOME"] = folder
    os.environ["GC3PIE_RC_DIR"] = f"{folder}/gc3"
    import gc3libs  # type: ignore[import-not-found]
    from gc3libs.application.apppot import (  # type: ignore[import-not-found]
        AppPotApplication,
    )
    from gc3libs.quantity import MB  # type: ignore[import-not-found]

    os.makedirs(f"{folder}/gc3", exist_ok=True)
    timer = f"{folder}/gc3/time"
    with open(timer, "w", encoding="utf-8") as file:
        file.write(TIME)
    os.chmod(timer, 0o755)
    configuration = f"{folder}/gc3/gc3pie.conf"
    with open(configuration, "w", encoding="utf-8") as file:
        file.write(CONFIGURATION.format(folder=folder, time=timer))
    with open(path, encoding="utf-8") as file:
        job: dict[str, Any] = json.load(file)
    if "requested_memory" in job:
        job["requested_memory"] = job["requested_memory"] * MB
    inputs = [tuple(pair) for pair in job.pop("inputs")]
    application = AppPotApplication(
        job.pop("arguments"), inputs, job.pop("outputs"), f"{folder}/output", join=True, **job
    )
    engine = gc3libs.create_engine(configuration, auto_enable_auth=True)
    engine.add(application)
    deadline = time.monotonic() + 240
    while str(application.execution.state) != "TERMINATED" and time.monotonic() < deadline:
        engine.progress()
        time.sleep(0.5)
    run = application.execution
    print(
        json.dumps(
            {
                "arguments": list(application.arguments),
                "state": str(run.state),
                "returncode": run.returncode,
                "exitcode": run.exitcode,
            }
        )
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
