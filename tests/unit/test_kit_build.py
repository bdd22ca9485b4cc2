"""Building kits: apt's answers, missing tools, replacing folders, and a whole small build."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from apppot import paths
from apppot.cli import kit as cli
from apppot.cli.parser import parse
from apppot.errors import KitError, UsageError
from apppot.kit import apt, build, folders, job, manifest, sources, tools, verify
from apppot.kit.debian import Candidate
from apppot.kit.progress import Progress
from apppot.kit.recipes import RECIPES, kernel

if TYPE_CHECKING:
    from pathlib import Path

QUIET = Progress(quiet=True)

UPDATE = """\
Get:1 mirror:/debian forky InRelease [151 kB]
E: The repository 'mirror:/debian nonsuch Release' does not have a Release file.
E: Release file for mirror:/debian/dists/forky/InRelease is expired (invalid since 16d 5h). \
Updates for this repository will not be applied.
W: GPG error: mirror:/debian sid InRelease: The following signatures couldn't be verified
"""


def test_each_suite_that_cannot_be_used_has_its_own_reason() -> None:
    suites = ("trixie", "trixie-backports", "forky", "sid", "nonsuch")
    said = apt.refusals(UPDATE, suites)
    assert set(said) == {"forky", "sid", "nonsuch"}
    assert said["forky"].endswith("is expired (invalid since 16d 5h)")
    assert "signatures" in said["sid"]


def test_a_failure_that_names_no_suite_counts_for_all() -> None:
    said = apt.refusals("E: Could not open lock file\n", ("trixie", "sid"))
    assert said == dict.fromkeys(("trixie", "sid"), "Could not open lock file")


def test_the_main_archive_is_chosen_among_the_hosts_targets() -> None:
    targets = (
        "bookworm-security\tmain\tDebian-Security\tmirror:/security/\n"
        "nodistro\tmain\tNode\tmirror:/node/\n"
        "bookworm\tcontrib\tDebian\tmirror:/other/\n"
        "bookworm\tmain\tDebian\tmirror:/debian/\n"
    )
    assert apt.choose_mirror(targets) == "mirror:/debian/"
    assert apt.choose_mirror("noble\tmain\tUbuntu\tmirror:/ubuntu/\n") == ""
    assert apt.choose_mirror("") == ""


def test_the_main_archive_is_found_before_any_index_was_fetched() -> None:
    uris = (
        "'mirror:/debian/dists/trixie/InRelease' x 0 \n"
        "'mirror:/docker/dists/trixie/stable/binary-amd64/Packages.xz' x 0 \n"
        "'mirror:/pg/dists/trixie-pgdg/main/binary-amd64/Packages.xz' x 0 \n"
        "'mirror:/ubuntu/dists/noble/main/binary-amd64/Packages.xz' x 0 \n"
        "'mirror:/debian-security/dists/trixie/main/binary-amd64/Packages.xz' x 0 \n"
        "'mirror:/debian/dists/trixie/main/binary-amd64/Packages.xz' x 0 \n"
    )
    assert apt.choose_unfetched(uris) == "mirror:/debian/"
    assert apt.choose_unfetched("") == ""


def test_proxies_and_passwords_are_passed_on_and_nothing_else() -> None:
    dump = (
        'Acquire::http::Proxy "p:3128";\nAcquire::https::Proxy::host "DIRECT";\n'
        'Dir::Etc::netrc "auth.conf";\nAPT::Update::Post-Invoke:: "rm -f /var/cache/apt/x";\n'
        'Acquire::Check-Valid-Until "false";\nDPkg::Pre-Install-Pkgs:: "evil";\n'
    )
    assert [line.split(" ")[0] for line in apt.proxy_lines(dump)] == [
        "Acquire::http::Proxy",
        "Acquire::https::Proxy::host",
        "Dir::Etc::netrc",
    ]


def test_a_mirrors_password_does_not_get_into_a_kit() -> None:
    assert apt.without_password("scheme://me:secret@host:1/debian") == "scheme://host:1/debian"
    assert apt.without_password("scheme://host/debian") == "scheme://host/debian"


def test_everything_missing_is_listed_once_with_its_packages(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("shutil.which", lambda _name: None)
    with pytest.raises(KitError) as caught:
        tools.require()
    for name in tools.PROGRAMS:
        assert name in caught.value.message
    assert caught.value.hint.count("binutils") == 1
    assert "musl-tools" in caught.value.hint


def test_a_missing_static_library_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(tools.LIBRARIES, "libnonsuch.a", "libnonsuch-dev")
    monkeypatch.setitem(tools.HEADERS, "nonsuch.h", "nonsuch-dev")
    with pytest.raises(KitError) as caught:
        tools.require()
    assert "nonsuch.h, libnonsuch.a" in caught.value.message
    assert caught.value.hint.endswith("apt-get install libnonsuch-dev nonsuch-dev")


def test_symbols_that_the_kernel_dropped_are_found() -> None:
    wanted = 'CONFIG_A=y\nCONFIG_B=n\nCONFIG_C="x"\nCONFIG_D=64\n# CONFIG_E is not set\n# text\n'
    got = 'CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C="x"\nCONFIG_D=64\n'
    assert kernel.dropped(wanted, got) == []
    got = 'CONFIG_B=y\nCONFIG_C="y"\nCONFIG_E=y\n'
    assert kernel.dropped(wanted, got) == [
        "CONFIG_A=y (is n)",
        "CONFIG_B=n (is y)",
        'CONFIG_C="x" (is "y")',
        "CONFIG_D=64 (is n)",
        "CONFIG_E=n (is y)",
    ]


def test_pinned_archives_are_taken_by_digest_alone(tmp_path: Path) -> None:
    good = tmp_path / "a-1.tar.xz"
    good.write_bytes(b"archive")
    pin = sources.Pin("a-1.tar.xz", "1", verify.sha256_of(str(good)))
    wanted = sources.Wanted("a", "MIT", "a", pins=(pin,))
    got = sources.pinned(wanted, str(tmp_path))
    assert got
    assert (got.version, got.path) == ("1", str(good))
    assert got.sources[0].origin == "archive"
    good.write_bytes(b"Archive")
    with pytest.raises(KitError, match="not the archive that is pinned for a"):
        sources.pinned(wanted, str(tmp_path))
    good.unlink()
    assert sources.pinned(wanted, str(tmp_path)) is None


def test_without_apt_the_missing_archives_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apt, "HELPER", "/nonexistent")
    versions = sources.read_versions(os.path.join(paths.recipes_dir(), "kit/versions.toml"))
    finder = sources.Finder(versions, sources.Options(), str(tmp_path), QUIET)
    with pytest.raises(KitError) as caught:
        finder.find(list(versions.wanted.values()))
    assert "this computer has no apt" in caught.value.message
    for name in ("kernel", "passt", "erofs-utils", "e2fsprogs"):
        for pin in versions.wanted[name].pins:
            assert pin.file in caught.value.message
            assert pin.sha256 in caught.value.message
    assert "--sources" in caught.value.hint


def test_every_recipe_has_its_versions() -> None:
    versions = sources.read_versions(os.path.join(paths.recipes_dir(), "kit/versions.toml"))
    assert set(versions.wanted) == set(RECIPES)


@pytest.mark.parametrize("text", ["", "suites = 1", "suites = []\n[x]\n", "[", "suites=[]\nx=1"])
def test_a_broken_versions_file_is_an_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "versions.toml"
    path.write_text(text)
    with pytest.raises(KitError, match=r"versions\.toml"):
        sources.read_versions(str(path))


class FakeArchive(apt.Archive):
    """A mirror that does not have some of its files."""

    gone: tuple[str, ...] = ()

    def fetch(self, candidate: Candidate, target: str) -> None:
        if candidate.file in self.gone:
            raise apt.MissingFileError(f"the mirror does not have {candidate.file}")
        with open(target, "w") as stream:
            stream.write(candidate.file)


def test_the_next_version_is_taken_if_the_mirror_lacks_the_newest(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    versions = sources.Versions((), {})
    progress = Progress()
    finder = sources.Finder(versions, sources.Options(), str(tmp_path), progress)
    finder._archive = archive = FakeArchive("mirror:/x", str(tmp_path), ())
    choices = tuple(
        Candidate("p", v, "trixie", f"pool/p_{v}.orig.tar.xz", v) for v in ("3-1", "2-1")
    )
    wanted = sources.Wanted("p", "MIT", "p", pins=(sources.Pin("p-2.tar.xz", "2", "ab"),))
    archive.gone = ("p_3-1.orig.tar.xz",)
    assert finder._fetch_first(wanted, choices).version == "2"
    assert "the mirror does not have p_3-1.orig.tar.xz; trying the next" in capsys.readouterr().err
    archive.gone += ("p_2-1.orig.tar.xz",)
    os.remove(tmp_path / "sources" / "2-1" / "p_2-1.orig.tar.xz")
    with pytest.raises(KitError, match="it has none of them") as caught:
        finder._fetch_first(wanted, choices)
    assert "p-2.tar.xz" in caught.value.hint


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

    return SimpleNamespace(NAME=name, build=run, __file__=__file__)


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
