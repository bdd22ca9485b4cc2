"""The page of what works under which engine is made from results of the contract tests."""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
RESULTS = """<testsuites><testsuite>
<testcase classname="tests.contract.test_status" name="test_one[tcg-a]"/>
<testcase classname="tests.contract.test_status" name="test_one[tcg-b]"/>
<testcase classname="tests.contract.test_status" name="test_two[tcg]">
<failure message="x"/></testcase>
<testcase classname="tests.contract.test_status" name="test_three[tcg]">
<skipped type="pytest.skip" message="TCG has no such thing"/></testcase>
<testcase classname="tests.contract.test_status" name="test_of_no_engine"/>
</testsuite></testsuites>"""


@pytest.fixture
def maker() -> Any:
    path = os.path.join(ROOT, "docs", "make_engines.py")
    spec = importlib.util.spec_from_file_location("make_engines", path)
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_results_are_counted(maker: Any, tmp_path: Path) -> None:
    (tmp_path / "tcg.xml").write_text(RESULTS)
    old = {"passed": 9, "failed": [], "left_out": {}}
    results = {"test_status": {"tcg": dict(old), "uml": dict(old)}}
    maker.read(str(tmp_path / "tcg.xml"), results)
    assert results["test_status"]["uml"] == old
    page = maker.page(results)
    assert "| what is promised | `tcg` | `uml` |" in page
    assert "| The exit status is the payload's" in page
    assert "| 2, 1 failed, 1 left out | 9 |" in page
    assert "- TCG has no such thing: three" in page


def test_the_page_is_of_the_recorded_results(maker: Any) -> None:
    with open(maker.PAGE, encoding="utf-8") as file:
        assert file.read() == maker.page(maker.load())


def test_no_recorded_test_failed(maker: Any) -> None:
    results = maker.load()
    assert {"uml", "tcg"} <= {engine for row in results.values() for engine in row}
    for row in results.values():
        assert not [found["failed"] for found in row.values() if found["failed"]]
