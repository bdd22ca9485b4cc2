"""Bootstrap: sources, mirrors and command lines."""

from __future__ import annotations

import io
import os
import re
import tarfile
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apppot.errors import ImageError, UsageError
from apppot.image import bootstrap, debsources, mmdebstrap
from apppot.image.bootstrap import Request
from apppot.image.debsources import Release, Source, Target
from apppot.image.mmdebstrap import Mode

if TYPE_CHECKING:
    from pathlib import Path

HOST = (
    Target("http://a.example/tools/", "Tools", "Tools", "bookworm"),
    Target("http://m.example/debian/", "Debian", "Debian", "bookworm"),
    Target("http://b.example/debian/", "Debian", "Debian", "trixie"),
    Target("http://s.example/security/", "Debian", "Debian-Security", "bookworm-security"),
)


@pytest.mark.parametrize(
    ("distribution", "suite", "mirror", "targets", "expected"),
    [
        (
            "debian", "bookworm", "", HOST,
            [("http://m.example/debian", "bookworm"),
             ("http://m.example/debian", "bookworm-updates"),
             ("http://s.example/security", "bookworm-security")],
        ),
        (
            "debian", "trixie", "", HOST,
            [("http://b.example/debian", "trixie"),
             ("http://b.example/debian", "trixie-updates"),
             ("http://s.example/security", "trixie-security")],
        ),
        (
            "debian", "trixie", "http://x.example/d/debian", HOST,
            [("http://x.example/d/debian", "trixie"),
             ("http://x.example/d/debian", "trixie-updates"),
             ("http://x.example/d/debian-security", "trixie-security")],
        ),
        (
            "ubuntu", "noble", "http://x.example/ubuntu", (),
            [("http://x.example/ubuntu", "noble"),
             ("http://x.example/ubuntu", "noble-updates"),
             ("http://x.example/ubuntu", "noble-security")],
        ),
        ("debian", "sid", "", HOST, [("http://m.example/debian", "sid")]),
        ("ubuntu", "noble", "", HOST, []),
        ("debian", "bookworm", "", (), []),
    ],
)  # fmt: skip
def test_sources(
    distribution: str,
    suite: str,
    mirror: str,
    targets: tuple[Target, ...],
    expected: list[tuple[str, str]],
) -> None:
    found = debsources.plan(distribution, suite, mirror, targets)
    assert [(source.uri, source.suite) for source in found] == expected
    assert [source.optional for source in found] == [n > 0 for n in range(len(found))]


def test_sources_are_read_in_one_line_form() -> None:
    text = (
        "E: something\n"
        "deb [signed-by=/a b=c] http://m.example/debian/ bookworm main\n"
        "# deb http://no.example/ x main\n"
        "deb http://s.example/debian bookworm-security main contrib\n"
    )
    assert debsources.parse_one_line(text) == (
        Source("http://m.example/debian", "bookworm"),
        Source("http://s.example/debian", "bookworm-security", optional=True),
    )


@pytest.mark.parametrize(
    "mirror",
    ["http://h/debian", "https://h.example:8080/x/", "file:///srv/mirror", "http://[::1]/d"],
)
def test_mirrors_that_are_accepted(mirror: str) -> None:
    if "[" in mirror:
        with pytest.raises(UsageError):  # apt's one-line form has no place for brackets
            debsources.check_mirror(mirror)
        return
    assert debsources.check_mirror(mirror) == mirror.rstrip("/")


@pytest.mark.parametrize("mirror", ["", "h/debian", "http://", "http://h/a b", "deb http://h x"])
def test_mirrors_that_are_not(mirror: str) -> None:
    with pytest.raises(UsageError, match="not a mirror's address"):
        debsources.check_mirror(mirror)


def test_passwords_do_not_get_into_images() -> None:
    with pytest.raises(UsageError, match="would end up in the image") as error:
        debsources.check_mirror("https://user:secret@h.example/debian")
    assert "secret" not in str(error.value)


def test_release_files() -> None:
    source = Source("http://h", "bookworm")
    text = "Origin: X\nCodename: bookworm\nDate: Sat, 12 Sep 2026 07:55:41 UTC\nSHA256:\n a b c\n"
    assert debsources.parse_release(source, text) == Release(source, 1789199741, "bookworm", "")


@given(text=st.text())
def test_other_files_are_no_release_files(text: str) -> None:
    if not re.search("^Date:", text, re.MULTILINE):
        with pytest.raises(ImageError, match="not a Release file"):
            debsources.parse_release(Source("http://h", "x"), text)


@pytest.mark.parametrize("date", ["", "yesterday", "99999999999999999999", "Sat, 99 Sep 2026"])
def test_release_files_with_a_strange_date(date: str) -> None:
    with pytest.raises(ImageError, match="not a Release file"):
        debsources.parse_release(Source("http://h", "x"), f"Date: {date}\n")


def mirror_folder(tmp_path: Path, *suites: str) -> str:
    """Make the beginning of a mirror on this disk; return its address."""
    for suite in suites:
        archive = "debian-security" if suite.endswith("security") else "debian"
        folder = tmp_path / "mirror" / archive / "dists" / suite
        folder.mkdir(parents=True)
        (folder / "InRelease").write_text(f"Codename: {suite}\nDate: Thu, 01 Jan 2026 00:00:00 UTC")
    return f"file://{tmp_path}/mirror/debian"


def test_what_the_mirror_does_not_have_is_left_out(tmp_path: Path) -> None:
    mirror = mirror_folder(tmp_path, "bookworm", "bookworm-security")
    request = Request("debian:bookworm", mirror=mirror)
    found = bootstrap.find_releases(request, "debian", "bookworm")
    assert [release.source.suite for release in found] == ["bookworm", "bookworm-security"]
    assert {release.date for release in found} == {1767225600}


def test_a_mirror_without_the_suite_is_an_error(tmp_path: Path) -> None:
    mirror = mirror_folder(tmp_path, "bookworm")
    with pytest.raises(ImageError, match=r"suite 'trixie'.*File not found") as error:
        bootstrap.find_releases(Request("debian:trixie", mirror=mirror), "debian", "trixie")
    assert "check the suite's name" in error.value.hint


def test_a_mirror_that_cannot_be_reached_is_an_error() -> None:
    if not os.path.exists(debsources.APT_HELPER):
        pytest.skip(f"needs {debsources.APT_HELPER}")
    request = Request("debian:bookworm", mirror="http://127.0.0.1:9/debian")
    with pytest.raises(ImageError, match=r"127\.0\.0\.1:9.*onnect") as error:
        bootstrap.find_releases(request, "debian", "bookworm")
    assert "is the network up?" in error.value.hint


@pytest.mark.parametrize(
    "source", ["", "debian", "fedora:40", "debian:", "debian:../x", "Debian:x"]
)
def test_what_cannot_be_bootstrapped(source: str) -> None:
    with pytest.raises(UsageError):
        bootstrap.names(Request(source))


@pytest.mark.parametrize(
    ("package", "good"),
    [("gcc", True), ("libc6-dev:amd64", True), ("g++=4:12.2.0-3", True), ("gcc/bookworm", True),
     ("?x", False), ("./a.deb", False), ("--force", False), ("a b", False), ("", False)],
)  # fmt: skip
def test_packages_names(package: str, good: bool) -> None:
    request = Request("debian:bookworm", include=(package,))
    if good:
        assert bootstrap.names(request)[2] == "debian:bookworm"
    else:
        with pytest.raises(UsageError, match="not a package's name"):
            bootstrap.names(request)


def releases(*suites: str) -> list[Release]:
    return [Release(Source("http://h/debian", suite), 1000 + n, suite, "") for n, suite in
            enumerate(suites)]  # fmt: skip


def test_the_command_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(debsources, "archive_keyring", lambda _: "/k.gpg")
    request = Request("debian:bookworm", include=("gcc", "sudo"))
    plan = bootstrap.make_plan(
        request, "debian", releases("bookworm", "bookworm-security"), Mode.FAKECHROOT
    )
    assert mmdebstrap.arguments(plan) == [
        "mmdebstrap",
        "--verbose",
        "--mode=fakechroot",
        "--variant=minbase",
        "--format=tar",
        "--include=ca-certificates,iproute2,netbase,procps,sudo,gcc",
        "bookworm",
        "-",
        "deb [signed-by=/k.gpg] http://h/debian bookworm main",
        "deb [signed-by=/k.gpg] http://h/debian bookworm-security main",
    ]


def test_the_command_line_with_all_options() -> None:
    request = Request(
        "ubuntu:noble", bare=True, keyring="/own.gpg", variant="apt", allow_expired=True
    )
    plan = bootstrap.make_plan(request, "ubuntu", releases("noble"), Mode.ROOT, mounts=False)
    assert mmdebstrap.arguments(plan) == [
        "mmdebstrap",
        "--verbose",
        "--mode=root",
        "--variant=apt",
        "--format=tar",
        "--keyring=/own.gpg",
        '--aptopt=Acquire::Check-Valid-Until "false"',
        "--skip=check/canmount,chroot/mount",
        "noble",
        "-",
        "deb http://h/debian noble main universe",
    ]


def test_the_date(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    assert bootstrap.source_date(releases("a", "b")) == 1000
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "77")
    assert bootstrap.source_date(releases("a", "b")) == 77
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "today")
    with pytest.raises(UsageError):
        bootstrap.source_date(releases("a"))


def system_archive() -> bytes:
    """Return a small archive that looks like a system."""
    status = (
        "Package: b\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1:2-3\n\n"
        "Package: a\nStatus: install ok installed\nArchitecture: all\nVersion: 5\n"
        "Description: x\n y\n\n"
        "Package: gone\nStatus: deinstall ok config-files\nArchitecture: all\nVersion: 5\n\n"
    )
    files = {
        "./usr/lib/os-release": 'PRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nVERSION_ID="12"\n',
        "./var/lib/dpkg/status": status,
        "./etc/hostname": "secret-host\n",
        "./etc/resolv.conf": "nameserver 10.0.0.1\n",
        "./bin/sh": "x",
    }
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, text in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(text)
            archive.addfile(info, io.BytesIO(text.encode()))
    return out.getvalue()


def test_what_the_archive_says() -> None:
    system = bootstrap.describe(io.BytesIO(system_archive()))
    assert system == bootstrap.System(
        "Debian GNU/Linux 12 (bookworm)", "12", ("a:all=5", "b:amd64=1:2-3")
    )
    config = bootstrap.configuration(system, "sha256:x", 0, "apppot ...")
    assert config["created"] == "1970-01-01T00:00:00Z"
    assert config["config"]["Cmd"] == ["/bin/bash"]
    assert config["config"]["Labels"]["org.opencontainers.image.version"] == "12"
