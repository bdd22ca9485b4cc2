"""What a probe finds, and the registry of probes."""

from __future__ import annotations

import importlib
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from apppot.errors import AppPotError

if TYPE_CHECKING:
    from collections.abc import Callable

# name -> module; the function is the name with "_" for "-". In the order of the table.
_PROBES = {
    "kit": "programs",
    "uml-seccomp": "uml",
    "uml-ptrace": "uml",
    "exec-memory": "memory",
    "mappings": "memory",
    "memory": "memory",
    "disk": "storage",
    "processes": "quota",
    "open-files": "quota",
    "cpus": "quota",
    "passt": "programs",
    "landlock": "isolation",
    "user-namespaces": "isolation",
    "kvm": "pc",
    "tcg": "pc",
    "xen": "hypervisors",
    "virtualbox": "hypervisors",
    "store": "storage",
    "runtime": "storage",
    "shared-folders": "storage",
    "python": "programs",
}
NAMES = tuple(_PROBES)
# These boot something or start a program; without them an examination takes about 0.1 s.
_SLOW = frozenset({"kvm", "tcg", "passt"})
QUICK = tuple(name for name in NAMES if name not in _SLOW)


class Outcome(StrEnum):
    """How a try went."""

    WORKS = "works"
    LIMITED = "limited"
    FAILS = "fails"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Finding:
    """What one probe saw, what that means for runs, and what the user can do."""

    name: str
    outcome: Outcome
    found: str
    meaning: str = ""
    advice: str = ""
    details: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the finding as plain data, for JSON."""
        return asdict(self)


def examine(name: str, *, quick: bool = False) -> Finding:
    """Run the probe `name`; a probe that fails itself is a finding too. `quick`: boot nothing."""
    module = importlib.import_module(f"apppot.machine.probes.{_PROBES[name]}")
    probe: Callable[..., Finding] = getattr(module, name.replace("-", "_"))
    try:
        return probe(quick=quick) if name.startswith("uml-") else probe()
    except (AppPotError, OSError) as error:
        text = error.message if isinstance(error, AppPotError) else str(error)
        return Finding(
            name,
            Outcome.UNKNOWN,
            f"the probe itself failed: {text}",
            advice=error.hint if isinstance(error, AppPotError) else "",
        )
