"""Where kits come from: apt's answers, missing tools, pinned archives, versions."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from apppot import paths
from apppot.errors import KitError
from apppot.kit import apt, sources, tools, verify
from apppot.kit.debian import Candidate
from apppot.kit.progress import Progress
from apppot.kit.recipes import RECIPES

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
