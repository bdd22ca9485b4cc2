"""Probes: try what this computer lets us do, and say what was found.

`apppot run` imports this for `uml_mode` alone; the probes themselves are in `finding` and beyond.
"""

from __future__ import annotations

from apppot.machine.probes.mode import Mode, UmlMode, forget_uml_mode, uml_mode

__all__ = ["Mode", "UmlMode", "forget_uml_mode", "uml_mode"]
