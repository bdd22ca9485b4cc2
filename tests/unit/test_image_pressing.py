"""How changes files are compressed, and what old kits cannot do."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING

import pytest

from apppot.errors import AppPotError, KitError, UsageError
from apppot.image import changefile, changes, erofs, pressing
from apppot.image.pressing import Method, Pressing
from tests.unit.changes_archives import archive
from tests.unit.test_image_changes import BASE

if TYPE_CHECKING:
    from pathlib import Path

try:
    PROGRAM = erofs.mkfs_program()
    LZMA = erofs.knows(PROGRAM, Method.LZMA)
except AppPotError:
    LZMA = False
needs_lzma = pytest.mark.skipif(not LZMA, reason="needs a kit's mkfs.erofs with LZMA")


def mkfs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, methods: str) -> str:
    """Put a mkfs.erofs in place that says what it can compress by."""
    program = tmp_path / f"mkfs-{methods}"
    text = "\n".join(f"  {name}\n    [,level=<0-9>]" for name in methods.split("-"))
    program.write_text(f"#!/bin/sh\ncat <<END\n{text}\nEND\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("APPPOT_MKFS_EROFS", str(program))
    return str(program)


def test_a_kit_without_lzma_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = mkfs(tmp_path, monkeypatch, "lz4hc-zstd")
    assert pressing.wanted("zstd", 3) == Pressing(Method.ZSTD, 3)
    assert pressing.wanted() == Pressing(Method.ZSTD)
    for method in ("lzma", "mixed"):
        with pytest.raises(KitError, match=f"{old} cannot compress with lzma") as error:
            pressing.wanted(method, 0)
    assert "'apppot kit build'" in error.value.hint
    mkfs(tmp_path, monkeypatch, "lzma-zstd")
    assert pressing.wanted("lzma", 9) == Pressing(Method.LZMA, 9)
    assert pressing.wanted() == Pressing(Method.MIXED)


@pytest.mark.parametrize(
    ("method", "level"), [("zstd", 23), ("lzma", 10), ("lzma", -1), ("mixed", 23)]
)
def test_levels_that_a_method_has_not(method: str, level: int) -> None:
    with pytest.raises(UsageError, match=f"--level {level}: .*--compress {method}"):
        pressing.wanted(method, level)


def test_options() -> None:
    assert "-zzstd,level=11" in pressing.options(Pressing(Method.ZSTD))
    assert "-zlzma,level=6" in pressing.options(Pressing(Method.LZMA))
    assert "-zlzma,level=9" in pressing.options(Pressing(Method.LZMA, 9))
    for level, shared in {0: 6, 1: 1, 11: 6, 22: 9}.items():
        methods = f"-zlzma,level={shared}:zstd,level={level or 11}"
        assert methods in pressing.options(Pressing(Method.MIXED, level))


@needs_lzma
def test_files_are_smaller_with_lzma_and_always_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    # Alike from far away: farther than Zstandard looks back in EROFS.
    common = os.urandom(100_000)
    content = [(f"f{n}", common + os.urandom(1000) * 1200) for n in range(6)]
    content.append(("big", os.urandom(1_500_000).hex().encode()))  # has clusters of its own
    sizes = {}
    for method in Method:
        target = tmp_path / method
        made = changes.write(str(target), archive(*content), BASE, {}, how=Pressing(method))
        sizes[method] = made.size
        assert pressing.of_file(str(target)).method is method
        assert changefile.read(str(target)).layer.size < made.size
    assert sizes[Method.LZMA] < sizes[Method.ZSTD] - 2 * len(common)
    assert sizes[Method.MIXED] < sizes[Method.ZSTD] - 2 * len(common)
    assert sizes[Method.MIXED] != sizes[Method.LZMA]
    again = tmp_path / "again"
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    for method in Method:
        changes.write(str(again), archive(*reversed(content)), BASE, {}, how=Pressing(method))
        assert again.read_bytes() == (tmp_path / method).read_bytes()
