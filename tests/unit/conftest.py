"""Fixtures that several modules of unit tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from apppot import config
from tests.unit.demands import Demand

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def demand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Demand]:
    (tmp_path / "config.toml").touch()
    monkeypatch.setenv("APPPOT_CONFIG", str(tmp_path / "config.toml"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "none"))
    config.forget()
    yield Demand(tmp_path)
    config.forget()
