"""The JSON report of a run (docs/reference/report.md)."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from apppot import __version__
from apppot.errors import AppPotError
from apppot.machine.model import EngineName

if TYPE_CHECKING:
    from apppot.run import Finished

SCHEMA = 1


class ReportFile:
    """A report's file: opened before the run, so that a bad path is told before hours of work."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._aside = f"{path}.{os.getpid()}.new"
        try:
            self._file = open(self._aside, "w", encoding="utf-8")  # noqa: SIM115
        except OSError as error:
            raise AppPotError(
                f"the report {path} cannot be written: {error.strerror}",
                hint="name a file in a folder of yours with --report",
            ) from error

    def __enter__(self) -> ReportFile:  # noqa: PYI034
        """Nothing to do: the file is open."""
        return self

    def __exit__(self, *_: object) -> None:
        """Remove what was not finished."""
        self._file.close()
        if os.path.exists(self._aside):
            os.unlink(self._aside)

    def write(self, finished: Finished) -> None:
        """Write the report in the place of an older one; raises AppPotError."""
        try:
            json.dump(report(finished), self._file, indent=2)
            self._file.write("\n")
            self._file.flush()
            os.fsync(self._file.fileno())
            os.rename(self._aside, self._path)
        except OSError as error:
            raise AppPotError(
                f"the report {self._path} could not be written: {error.strerror}"
            ) from error


def report(finished: Finished) -> dict[str, Any]:
    """Return a run's report; times in seconds, sizes in bytes."""
    outcome, machine = finished.outcome, finished.machine
    result = outcome.result
    return {
        "schema": SCHEMA,
        "apppot": __version__,
        "status": int(outcome.status),
        "source": str(outcome.source),
        "exit_code": result.code if result else None,
        "signal": result.signal if result else None,
        "core_dumped": bool(result and result.core_dumped),
        "message": outcome.message,
        "notes": list(outcome.notes),
        "image": {
            "name": finished.image.name,
            "digest": finished.image.digest,
            "layers": [layer.digest for layer in finished.image.layers],
        },
        "command": [os.fsdecode(word) for word in finished.command.arguments],
        "machine": {
            "engine": str(finished.engine),
            "mode": str(machine.mode) if finished.engine is EngineName.UML else None,
            "kernel": outcome.kernel,
            "cpus": machine.cpus,
            "host_cpus": list(machine.host_cpus),
            "memory": machine.memory,
            "memory_for_programs": outcome.guest_memory,
            "network": str(machine.network),
        },
        "times": {
            "began": datetime.fromtimestamp(finished.began, UTC).isoformat(),
            "ended": datetime.fromtimestamp(finished.ended, UTC).isoformat(),
            "wall": round(finished.ended - finished.began, 6),
            "boot_firmware": _rounded(outcome.firmware_time),
            "boot_kernel": _rounded(outcome.hello_time),
            "boot_agent": _between(outcome.hello_time, outcome.ready_time),
            "boot_payload": _between(outcome.ready_time, outcome.start_time),
            "guest_ready": outcome.ready_time,
            "guest_payload_started": outcome.start_time,
        },
        "usage": {
            "user_time": result.user_time if result else None,
            "system_time": result.system_time if result else None,
            "peak_memory": result.peak_memory if result else None,
            "host_cpu_time": outcome.host_cpu_time,
            "host_peak_memory": outcome.host_peak_memory,
        },
    }


def _between(begin: float | None, end: float | None) -> float | None:
    return None if begin is None or end is None else _rounded(end - begin)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
