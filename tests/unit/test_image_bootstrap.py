"""Bootstrap: sources, mirrors, command lines and modes, with fakes instead of the programs."""

from __future__ import annotations

import io
import os
import re
import signal
import subprocess
import sys
import tarfile
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apppot.__main__ import main
from apppot.errors import AppPotError, ImageError, UsageError
from apppot.image import bootstrap, debsources, mmdebstrap, workplace
from apppot.image.bootstrap import Request
from apppot.image.debsources import Release, Source, Target
from apppot.image.mmdebstrap import Mode, Plan
from apppot.image.store import Store
from tests.children import children

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


# --- With fake programs: each test's PATH begins with its own folder ---------------------------


@pytest.fixture
def fakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "fakes"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("APPPOT_STORE", str(tmp_path / "store"))
    monkeypatch.setenv("APPPOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("APPPOT_TMPDIR", str(tmp_path))
    monkeypatch.setenv("APPPOT_MIRROR", mirror_folder(tmp_path, "bookworm"))
    # An EROFS file in name alone: what counts here is what goes in.
    fake(folder, "mkfs.erofs", """
        for target; do :; done
        {
            head -c 1024 /dev/zero
            printf '\\342\\341\\365\\340'
            head -c 8 /dev/zero
            printf '\\014\\0\\0\\0'
            cat
        } > "$target"
    """)  # fmt: skip
    monkeypatch.setenv("APPPOT_MKFS_EROFS", str(folder / "mkfs.erofs"))
    (tmp_path / "system.tar").write_bytes(system_archive())
    return folder


def fake(folder: Path, name: str, script: str) -> None:
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)


def left_behind(tmp_path: Path) -> list[str]:
    """Return the files in the store's and the temporary folder that should not be there."""
    store = tmp_path / "store" / "blobs" / "sha256"
    blobs = [path.name for path in store.iterdir()] if store.exists() else []
    known = {"fakes", "store", "cache", "mirror", "system.tar", "argv"}
    return [name for name in (*blobs, *os.listdir(tmp_path)) if name not in known]


def test_a_whole_bootstrap(fakes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fake(fakes, "mmdebstrap", f"""
        [ "$1" = --unshare-helper ] && exit 0
        for word; do printf '%s\\n' "$word"; done > {tmp_path}/argv
        echo "I: installing..." >&2
        cat {tmp_path}/system.tar
    """)  # fmt: skip
    assert main(["bootstrap", "debian:bookworm", "--name", "mine", "--include=gcc"]) == 0
    shown = capsys.readouterr()
    digest = Store(str(tmp_path / "store")).entries()[0].manifest.digest
    assert shown.out == f"mine:latest {digest}\n"
    assert "no bookworm-security" in shown.err
    words = (tmp_path / "argv").read_text().splitlines()
    assert words[-3:-1] == ["bookworm", "-"]
    assert "--include=ca-certificates,iproute2,netbase,procps,sudo,gcc" in words
    layer = next(
        p for p in (tmp_path / "store/blobs/sha256").iterdir() if b"bin/sh" in p.read_bytes()
    )
    assert b"secret-host" not in layer.read_bytes()
    assert b"10.0.0.1" not in layer.read_bytes()
    assert not (tmp_path / "cache/log/bootstrap-debian-bookworm.log").exists()
    assert main(["bootstrap", "debian:bookworm", "--name", "mine"]) == 1
    assert "exists already" in capsys.readouterr().err
    assert main(["bootstrap", "debian:bookworm", "--name", "mine", "--include=gcc", "--force"]) == 0
    assert capsys.readouterr().out == f"mine:latest {digest}\n"


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ("E: Unable to locate package foo", "--include"),
        ("dpkg: error: No space left on device", "disk is full"),
        ("E: Release file for http://h is expired (invalid since 3d)", "out of date"),
        ("The following signatures couldn't be verified: NO_PUBKEY 123", "keyring"),
        ("something else", "read the log"),
    ],
)
def test_a_failing_bootstrap_keeps_its_log_and_nothing_else(
    words: str, hint: str, fakes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake(fakes, "mmdebstrap", f"""
        [ "$1" = --unshare-helper ] && exit 0
        head -c 300 {tmp_path}/system.tar
        echo "{words}" >&2
        exit 25
    """)  # fmt: skip
    assert main(["bootstrap", "debian:bookworm"]) == 1
    shown = capsys.readouterr().err
    log = tmp_path / "cache/log/bootstrap-debian-bookworm.log"
    assert f"mmdebstrap failed with status 25; its log is {log}" in shown
    assert words in shown
    assert hint in shown
    assert words in log.read_text()
    assert left_behind(tmp_path) == []


def test_an_archive_that_is_cut_short_is_not_stored(
    fakes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fake(fakes, "mmdebstrap", f"""
        [ "$1" = --unshare-helper ] && exit 0
        head -c 3000 {tmp_path}/system.tar
    """)  # fmt: skip
    assert main(["bootstrap", "debian:bookworm"]) == 1
    assert "archive" in capsys.readouterr().err
    assert left_behind(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_signals_stop_mmdebstrap_and_leave_nothing(
    number: signal.Signals, fakes: Path, tmp_path: Path
) -> None:
    fake(fakes, "mmdebstrap", f"""
        [ "$1" = --unshare-helper ] && exit 0
        trap 'rm -f {tmp_path}/busy; exit 1' INT
        touch {tmp_path}/busy
        kill -{int(number)} {os.getpid()}
        echo "I: waiting..." >&2
        while :; do sleep 0.05; done
    """)  # fmt: skip
    begin = time.monotonic()
    assert main(["bootstrap", "debian:bookworm"]) == 130
    assert time.monotonic() - begin < 10
    assert left_behind(tmp_path) == []
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert children() == []


def test_what_a_killed_bootstrap_leaves_is_removed_by_the_next(fakes: Path, tmp_path: Path) -> None:
    fake(fakes, "mmdebstrap", f"""
        [ "$1" = --unshare-helper ] && exit 0
        mkdir "$TMPDIR/half"
        echo $$ > {tmp_path}/argv
        while :; do sleep 0.05; done
    """)  # fmt: skip
    command = [sys.executable, "-m", "apppot", "bootstrap", "debian:bookworm"]
    with subprocess.Popen(command) as launcher:
        while not (tmp_path / "argv").exists() or not (tmp_path / "argv").read_text().strip():
            time.sleep(0.01)
        launcher.kill()
    (left,) = workplace_names(tmp_path)
    assert (tmp_path / left / "half").is_dir()
    assert workplace.sweep(str(tmp_path)) == ()  # mmdebstrap may still be at work in it
    os.killpg(int((tmp_path / "argv").read_text()), signal.SIGKILL)
    while not workplace.sweep(str(tmp_path)):
        time.sleep(0.01)
    assert workplace_names(tmp_path) == []


def workplace_names(folder: Path) -> list[str]:
    return [name for name in os.listdir(folder) if name.startswith(workplace.PREFIX)]


def test_all_ways_are_tried_and_their_problems_told(
    fakes: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(fakes, "mmdebstrap", "echo 'E: no subordinate ids' >&2; exit 1")
    fake(fakes, "fakechroot", "echo 'fakechroot: not today' >&2; exit 1")
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    with pytest.raises(AppPotError) as error:
        mmdebstrap.choose()
    assert "unshare: no subordinate ids; fakechroot: fakechroot: not today" in error.value.message
    assert "subuid" in error.value.hint
    fake(fakes, "fakechroot", "exit 0")
    assert mmdebstrap.choose()[0] == Mode.FAKECHROOT
    fake(fakes, "mmdebstrap", "exit 0")
    assert mmdebstrap.choose()[0] == Mode.UNSHARE
    assert mmdebstrap.choose("fakechroot")[0] == Mode.FAKECHROOT
    with pytest.raises(AppPotError, match="you are not root"):
        mmdebstrap.choose("root")


def test_a_missing_mmdebstrap_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("apppot.process.CLEAN_PATH", str(tmp_path))
    with pytest.raises(AppPotError, match="'mmdebstrap' is not installed") as error:
        mmdebstrap.choose()
    assert "install the package mmdebstrap" in error.value.hint


def test_the_environment_of_mmdebstrap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/only/bin")
    monkeypatch.setenv("LANG", "de_DE.UTF-8")
    found = mmdebstrap.environment(5, "/t")
    assert found["PATH"].startswith("/only/bin:")
    assert "/usr/sbin" in found["PATH"].split(":")
    assert (found["TMPDIR"], found["SOURCE_DATE_EPOCH"]) == ("/t", "5")
    assert "LANG" not in found


def test_plans_are_values() -> None:
    assert Plan(Mode.ROOT, "x", ("deb u x main",)) == Plan(Mode.ROOT, "x", ("deb u x main",))
