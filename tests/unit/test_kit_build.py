"""Building kits: replacing folders, and a whole small build."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from apppot import paths
from apppot.cli import kit as cli
from apppot.cli.parser import parse
from apppot.errors import KitError, UsageError
from apppot.kit import build, folders, job, libraries, manifest, tools, verify
from apppot.kit.progress import Progress
from apppot.kit.recipes import RECIPES, linux, pc_kernel

QUIET = Progress(quiet=True)


def test_symbols_that_the_kernel_dropped_are_found() -> None:
    wanted = 'CONFIG_A=y\nCONFIG_B=n\nCONFIG_C="x"\nCONFIG_D=64\n# CONFIG_E is not set\n# text\n'
    got = 'CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C="x"\nCONFIG_D=64\n'
    assert linux.dropped(wanted, got) == []
    got = 'CONFIG_B=y\nCONFIG_C="y"\nCONFIG_E=y\n'
    assert linux.dropped(wanted, got) == [
        "CONFIG_A=y (is n)",
        "CONFIG_B=n (is y)",
        'CONFIG_C="x" (is "y")',
        "CONFIG_D=64 (is n)",
        "CONFIG_E=n (is y)",
    ]


def test_the_pc_kernel_has_the_configuration_of_the_other_one_below_its_own() -> None:
    recipes = Path(paths.recipes_dir()) / "kit"
    own = recipes / "pc-kernel"
    assert (own / "uml").read_text() == (recipes / "kernel" / "config").read_text()
    assert [len(list(recipes.glob(pattern))) for pattern in pc_kernel.PATCHES] == [1, 1]
    text = "".join((own / name).read_text() for name in pc_kernel.FRAGMENTS)
    settings = linux.settings(text)
    for symbol in ("VIRTIO_BLK", "BLK_DEV_NVME", "EFI_STUB", "XEN_PVH", "EROFS_FS", "SECCOMP"):
        assert settings[f"CONFIG_{symbol}"] == "y"
    assert settings["CONFIG_HOSTFS"] == "n"
    assert settings["CONFIG_MODULES"] == "n"


def test_a_folder_that_is_no_kit_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("dear")
    with pytest.raises(KitError, match="will not be replaced"):
        folders.check_replaceable(str(tmp_path))
    with pytest.raises(KitError, match="is not a folder"):
        folders.check_replaceable(str(tmp_path / "mine"))
    with pytest.raises(KitError, match="cannot write the kit"):
        folders.check_replaceable(str(tmp_path / "mine" / "kit"))
    folders.check_replaceable(str(tmp_path / "new" / "kit"))


def test_replacing_is_all_or_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    output = tmp_path / "kit"
    with folders.replacing(str(output)) as aside:
        folders.write(f"{aside}/kit.json", "old")
    with pytest.raises(RuntimeError), folders.replacing(str(output)) as aside:  # noqa: PT012
        folders.write(f"{aside}/kit.json", "half")
        raise RuntimeError
    assert (output / "kit.json").read_text() == "old"
    (tmp_path / ".kit.new-999999999").mkdir()  # a build that was killed
    with folders.replacing(str(output)) as aside:
        folders.write(f"{aside}/kit.json", "new")
    assert (output / "kit.json").read_text() == "new"
    assert os.listdir(tmp_path) == ["kit"]


def test_replacing_works_without_exchange(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "RENAME_EXCHANGE", 1 << 30)  # no such flag: EINVAL
    for text in ("one", "two"):
        with folders.replacing(str(tmp_path / "kit")) as aside:
            folders.write(f"{aside}/kit.json", text)
        assert (tmp_path / "kit" / "kit.json").read_text() == text
    assert os.listdir(tmp_path) == ["kit"]


def recipe(name: str, content: bytes, runs: list[str], *, fail: bool = False) -> SimpleNamespace:
    def run(task: job.Job) -> None:
        runs.append(name)
        if fail:
            task.step("compile", ["sh", "-c", "for i in $(seq 40); do echo line $i; done; exit 3"])
        task.write(f"boot/{name}", content)

    return SimpleNamespace(NAME=name, LINKED=(), build=run, __file__=__file__)


@dataclass
class Small:
    """A project with two components of its own, 'one' and 'two'."""

    runs: list[str]
    recipes: dict[str, Any]
    base: Path
    out: str


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Small:
    runs: list[str] = []
    recipes = {name: recipe(name, name.encode(), runs) for name in ("one", "two")}
    monkeypatch.setattr(build, "RECIPES", recipes)
    base = tmp_path / "project"
    (base / "kit").mkdir(parents=True)
    (base / "guest").mkdir()
    (base / "guest" / "a.c").write_text("int a;")
    (base / "kit" / "versions.toml").write_text(
        'suites = []\n[one]\nlicence = "MIT"\n[two]\nlicence = "MIT"\n'
    )
    monkeypatch.setattr("apppot.paths.recipes_dir", lambda: str(base))
    monkeypatch.setenv("APPPOT_CACHE", str(tmp_path / "cache"))
    return Small(runs, recipes, base, str(tmp_path / "kit"))


def test_a_build_makes_a_kit_that_verifies_and_the_next_one_is_from_the_cache(
    small: Small, tmp_path: Path
) -> None:
    assert build.build(build.BuildOptions(small.out), QUIET) == small.out
    first = verify.check(small.out)
    assert set(first.files) == {"boot/one", "boot/two"}
    assert first.components["one"].sources[0].file == "a.c"
    assert small.runs == ["one", "two"]
    text = (tmp_path / "kit" / "kit.json").read_bytes()
    build.build(build.BuildOptions(small.out), QUIET)
    assert small.runs == ["one", "two"]
    assert (tmp_path / "kit" / "kit.json").read_bytes() == text
    assert sorted(os.listdir(tmp_path)) == ["cache", "kit", "project"]
    assert os.listdir(tmp_path / "cache" / "build" / "work") == []


def test_the_licences_of_what_is_linked_in_go_into_the_kit(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = tmp_path / "copyright"
    text.write_text("Do what you like.")

    def have(version: str) -> None:
        found = manifest.Library("libz.a", "Zlib", "zlib", version), str(text)
        monkeypatch.setattr(libraries, "linked", lambda _: found)

    for made in small.recipes.values():
        made.LINKED = ("libz.a",)
    have("1:1.2")
    build.build(build.BuildOptions(small.out), QUIET)
    first = verify.check(small.out)
    assert first.components["one"].libraries[0].version == "1:1.2"
    assert set(first.files) == {"boot/one", "boot/two", "licenses/libraries/zlib_1%3a1.2"}
    have("1:1.3")
    build.build(build.BuildOptions(small.out, only=("one",)), QUIET)
    assert small.runs == ["one", "two", "one"]
    assert {"licenses/libraries/zlib_1%3a1.2", "licenses/libraries/zlib_1%3a1.3"} < set(
        verify.check(small.out).files
    )
    build.build(build.BuildOptions(small.out, only=("two",)), QUIET)
    assert "licenses/libraries/zlib_1%3a1.2" not in verify.check(small.out).files


@pytest.mark.skipif(not os.path.exists("/var/lib/dpkg/status"), reason="needs dpkg")
def test_dpkg_knows_every_library_that_is_linked_in() -> None:
    names = {name for made in RECIPES.values() for name in made.LINKED}
    assert names == set(libraries.LICENCES)
    for name in names:
        if not os.path.exists(tools.library(name)):
            pytest.skip(f"{name} is not installed")
        library, text = libraries.linked(name)
        assert library.package
        assert library.version
        with open(text, encoding="utf-8") as file:
            assert "opyright" in file.read()


def test_changed_sources_and_damaged_caches_are_built_again(small: Small, tmp_path: Path) -> None:
    build.build(build.BuildOptions(small.out), QUIET)
    (cached,) = (tmp_path / "cache" / "build" / "two").iterdir()
    (cached / "boot" / "two").write_text("owt")
    build.build(build.BuildOptions(small.out), QUIET)
    assert small.runs == ["one", "two", "two"]
    (small.base / "guest" / "a.c").write_text("int b;")
    build.build(build.BuildOptions(small.out), QUIET)
    assert small.runs[3:] == ["one", "two"]
    build.build(build.BuildOptions(small.out, cached=False), QUIET)
    assert small.runs[5:] == ["one", "two"]


def test_a_kit_from_older_recipes_is_whole_but_not_current(small: Small) -> None:
    _, verify_current = parse(["kit", "verify", "--current", small.out])

    build.build(build.BuildOptions(small.out), QUIET)
    assert cli.main(verify_current) == 0
    (small.base / "guest" / "a.c").write_text("int b;")
    with pytest.raises(KitError, match="recipes"):
        cli.main(verify_current)
    build.build(build.BuildOptions(small.out), QUIET)
    assert cli.main(verify_current) == 0
    (small.base / "kit" / "two").mkdir()
    (small.base / "kit" / "two" / "0001-new.patch").write_text("--- a\n+++ b\n")
    with pytest.raises(KitError, match="recipes"):
        cli.main(verify_current)
    assert verify.check(small.out)


def test_only_one_component_is_built_and_the_others_are_kept(small: Small) -> None:
    build.build(build.BuildOptions(small.out), QUIET)
    small.recipes["two"] = recipe("two", b"changed", small.runs)
    build.build(build.BuildOptions(small.out, only=("two",), cached=False), QUIET)
    assert small.runs == ["one", "two", "two"]
    found = verify.check(small.out)
    assert set(found.files) == {"boot/one", "boot/two"}
    assert found.files["boot/two"].size == len("changed")


def test_an_unknown_component_is_an_error_that_lists_all(small: Small) -> None:
    with pytest.raises(KitError, match="no component 'three'") as caught:
        build.build(build.BuildOptions(small.out, only=("three",)), QUIET)
    assert caught.value.hint == "there are: one, two"


def test_a_negative_number_of_jobs_is_refused(small: Small) -> None:
    with pytest.raises(UsageError, match="-1 parallel jobs"):
        build.build(build.BuildOptions(small.out, jobs=-1), QUIET)


def test_a_failed_step_names_itself_its_last_lines_and_its_log(
    small: Small, capsys: pytest.CaptureFixture[str]
) -> None:
    small.recipes["two"] = recipe("two", b"", small.runs, fail=True)
    with pytest.raises(KitError) as caught:
        build.build(build.BuildOptions(small.out), Progress())
    message = caught.value.message
    assert message.startswith("two: compile failed with status 3\n")
    assert "line 40" in message
    assert "line 20\n" not in message
    log = message.rpartition("log: ")[2]
    with open(log, encoding="utf-8") as stream:
        assert "line 1\n" in stream.read()
    assert not os.path.exists(small.out)
    assert "two: compile" in capsys.readouterr().err


def test_a_patch_that_does_not_apply_is_named(small: Small) -> None:
    def run(task: job.Job) -> None:
        task.patch(task.work)

    folder = small.base / "kit" / "two" / "patches"
    folder.mkdir(parents=True)
    hunk = "--- a/{0}\n+++ b/{0}\n@@ -{1} +1 @@\n{2}+new\n"
    (folder / "0001-applies.patch").write_text(hunk.format("file", "0,0", ""))
    (folder / "0002-is-for-another-version.patch").write_text(hunk.format("file", 1, "-old\n"))
    (folder / "0003-applies.patch").write_text(hunk.format("other", "0,0", ""))
    small.recipes["two"] = SimpleNamespace(NAME="two", LINKED=(), build=run, __file__=__file__)
    with pytest.raises(KitError, match=r"two: patch 0002-is-for-another-version\.patch failed"):
        build.build(build.BuildOptions(small.out), QUIET)


def test_two_builds_at_once_wait_for_each_other(small: Small, tmp_path: Path) -> None:
    order = tmp_path / "order"
    code = (
        "import fcntl, sys, time\n"
        f"stream = open({str(tmp_path / 'cache/build/locks/two')!r}, 'a')\n"
        "fcntl.flock(stream, fcntl.LOCK_EX)\n"
        "print('locked', flush=True)\n"
        "time.sleep(0.5)\n"
        f"open({str(order)!r}, 'w').write('first')\n"
    )
    build.build(build.BuildOptions(small.out), QUIET)  # makes the folders
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as other:
        assert other.stdout
        other.stdout.readline()
        build.build(build.BuildOptions(small.out), QUIET)
        assert order.read_text() == "first"


def test_a_cache_that_cannot_be_used_is_not_needed(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("APPPOT_CACHE", str(tmp_path / "file"))
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    monkeypatch.setenv("APPPOT_TMPDIR", str(scratch))
    build.build(build.BuildOptions(small.out), QUIET)
    assert set(manifest.load(small.out).files) == {"boot/one", "boot/two"}
    assert os.listdir(scratch) == []
