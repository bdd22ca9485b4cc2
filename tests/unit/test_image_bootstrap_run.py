"""Bootstrap with fakes instead of the programs: each test's PATH begins with its own folder."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from apppot import process
from apppot.__main__ import main
from apppot.errors import AppPotError
from apppot.image import mmdebstrap, workplace
from apppot.image.mmdebstrap import Mode, Plan
from apppot.image.store import Store
from tests.children import children
from tests.unit.test_image_bootstrap import mirror_folder, system_archive

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


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
        [ "$target" != --help ] || exit 0
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
    # bash, because dash loses a signal that comes while it starts a program.
    (folder / name).write_text(f"#!/bin/bash\n{script}\n")
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
        mkfifo {tmp_path}/never; exec 9<>{tmp_path}/never; rm {tmp_path}/never
        kill -{int(number)} {os.getpid()}
        echo "I: waiting..." >&2
        while :; do read -t 0.05 -u 9; done  # bash loses signals while it starts a program
    """)  # fmt: skip
    begin = time.monotonic()
    assert main(["bootstrap", "debian:bookworm"]) == 130
    assert time.monotonic() - begin < 10
    assert left_behind(tmp_path) == []
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert children() == []


def test_a_signal_at_the_very_start_finds_mmdebstrap(
    fakes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(
        fakes,
        "mmdebstrap",
        """
        [ "$1" = --unshare-helper ] && exit 0
        while :; do sleep 0.05; done
    """,
    )
    spawn = process.spawn

    def signalled(argv: Sequence[str], **rest: Any) -> int:
        pid = spawn(argv, **rest)
        # To this thread, as in a process that has no other: the test's own runner may have some.
        signal.pthread_kill(threading.get_ident(), signal.SIGTERM)
        return pid

    monkeypatch.setattr(process, "spawn", signalled)
    assert main(["bootstrap", "debian:bookworm"]) == 130
    assert children() == []
    assert left_behind(tmp_path) == []


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
