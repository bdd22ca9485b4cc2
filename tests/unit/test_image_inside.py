"""Bootstrap mode `machine`: what it starts from, what it hands in, how it ends; no machine."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

import apppot.run
from apppot.errors import AppPotError, ImageError, MachineError
from apppot.image import bootstrap, inside, mmdebstrap
from apppot.image.mmdebstrap import Mode, Plan
from apppot.image.store import Store
from apppot.machine import probes
from apppot.outcome import Outcome, Source

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from apppot.request import RunRequest

PLAN = Plan(Mode.MACHINE, "trixie", ("deb [signed-by=/k.gpg] http://h/debian trixie main",))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('ID=debian\nVERSION_CODENAME=bookworm\nPRETTY_NAME="X"\n', ("debian", "bookworm")),
        ('ID="ubuntu"\nVERSION_CODENAME="noble"\n', ("ubuntu", "noble")),
        ("ID=fedora\nVERSION_ID=40\n", ("fedora", "")),
        ("", ("", "")),
    ],
)
def test_the_hosts_release(text: str, expected: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / "os-release").write_text(text)
    assert inside.host_release(str(tmp_path / "os-release")) == expected


def test_a_host_that_does_not_say_its_release(tmp_path: Path) -> None:
    assert inside.host_release(str(tmp_path / "none")) == ("", "")


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Store:
    monkeypatch.setenv("APPPOT_STORE", str(tmp_path / "store"))
    monkeypatch.setattr("apppot.paths.SYSTEM_DATA", ())
    monkeypatch.setattr(inside, "host_release", lambda: ("debian", "bookworm"))
    return Store(str(tmp_path / "store"))


def add(store: Store, name: str, source: str = "") -> str:
    """Put an image without contents into the store; return its digest."""
    with store.writer() as writer:
        layer = writer.add(name.encode(), "application/vnd.apppot.layer.v1.erofs")
        annotations = {"vnd.apppot.source": source} if source else {}
        configuration = {"config": {}, "architecture": "amd64"}
        return writer.image(name, [layer], configuration, annotations=annotations)


def test_what_is_started_from(store: Store) -> None:
    assert inside.find_base() == ""
    add(store, "alpine:3.20")
    assert inside.find_base() == ""
    best = ""
    for name, source in (
        ("host.example/library/ubuntu:22.04", ""),
        ("mine:latest", "debian:trixie"),
        ("debian:bookworm", "debian:bookworm"),
        (f"{inside.BASE}:trixie", "debian:trixie"),
        (f"{inside.BASE}:bookworm", "debian:bookworm"),
    ):
        better = add(store, name, source)
        assert inside.find_base() == better != best
        best = better


def test_a_damaged_image_is_not_started_from(store: Store) -> None:
    digest = add(store, "debian:bookworm", "debian:bookworm")
    os.unlink(store.image(store.entries()[0]).layers[0].path)
    assert digest
    assert inside.find_base() == ""


@pytest.mark.parametrize(
    ("foreign", "machine", "expected"),
    [
        (False, "", Mode.FAKECHROOT),
        (True, "", Mode.MACHINE),
        (True, "no kit", Mode.FAKECHROOT),
    ],
)
def test_the_order(
    foreign: bool, machine: str, expected: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    monkeypatch.setattr(mmdebstrap, "_missing", lambda: "")
    monkeypatch.setattr(mmdebstrap, "_try_unshare", lambda _: "no subordinate ids")
    monkeypatch.setattr(mmdebstrap, "_works", lambda *_: "")
    assert mmdebstrap.choose(foreign=foreign, machine=lambda: machine)[0] is expected
    assert mmdebstrap.choose("machine", foreign=foreign, machine=lambda: "")[0] is Mode.MACHINE
    monkeypatch.setattr(mmdebstrap, "_works", lambda *_: "broken")
    assert mmdebstrap.choose(foreign=foreign, machine=lambda: "")[0] is Mode.MACHINE
    with pytest.raises(AppPotError, match="machine: no kit"):
        mmdebstrap.choose(foreign=foreign, machine=lambda: "no kit")


def test_a_machine_needs_no_mmdebstrap_of_the_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mmdebstrap, "_missing", lambda: "not installed")
    assert mmdebstrap.choose(machine=lambda: "")[0] is Mode.MACHINE


def test_it_is_called_as_by_root() -> None:
    assert mmdebstrap.arguments(PLAN) == mmdebstrap.arguments(Plan(Mode.ROOT, *PLAN_VALUES))


PLAN_VALUES = (PLAN.suite, PLAN.sources)


def test_what_is_shared(tmp_path: Path) -> None:
    keys, mirror = tmp_path / "keys.gpg", tmp_path / "mirror"
    keys.touch()
    mirror.mkdir()
    (tmp_path / "link.gpg").symlink_to(keys)
    plan = Plan(
        Mode.MACHINE,
        "trixie",
        (f"deb [signed-by={keys}] file://{mirror} trixie main", "deb http://h/debian x main"),
        keyring=str(tmp_path / "link.gpg"),
    )
    found = {share.target: share.source for share in inside.shares(plan)}
    found.pop(os.fsencode(inside.CERTIFICATES), None)
    assert found == {
        os.fsencode(keys): str(keys),
        os.fsencode(mirror): str(mirror),
        os.fsencode(tmp_path / "link.gpg"): str(keys),
    }
    assert all(share.read_only for share in inside.shares(plan))


def test_nothing_of_the_host_is_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/own/bin")
    monkeypatch.setenv("TMPDIR", "/own/tmp")
    monkeypatch.setenv("HOME", "/own")
    monkeypatch.setenv("http_proxy", "http://p.example:3128")
    found = dict(setting.split(b"=", 1) for setting in inside.environment(7))
    assert not [value for value in found.values() if b"/own" in value]
    assert found[b"http_proxy"] == b"http://p.example:3128"
    assert found[b"SOURCE_DATE_EPOCH"] == b"7"


# --- The script, by this computer's shell ------------------------------------------------------


def script(folder: Path, *words: str, **programs: str) -> subprocess.Popen[bytes]:
    folder.mkdir()
    for name, text in programs.items():
        program = folder / name.replace("_", "-")
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
    return subprocess.Popen(
        ["/bin/sh", "-c", inside.SCRIPT, "sh", *words],
        env={"PATH": str(folder)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def test_the_script_passes_arguments_output_and_status(tmp_path: Path) -> None:
    with script(
        tmp_path / "bin", "mmdebstrap", "a b", "$c", mmdebstrap='printf "%s|" "$@"; exit 7'
    ) as process:
        assert process.communicate(timeout=20) == (b"a b|$c|", b"")
    assert process.returncode == 7


def test_the_script_installs_what_is_missing(tmp_path: Path) -> None:
    text = f"""echo "$@"; [ "$1" = --yes ] || [ "$2" = --yes ] || exit 0
        printf '#!/bin/sh\\necho tar\\n' > {tmp_path}/bin/mmdebstrap
        PATH=/usr/bin:/bin chmod +x {tmp_path}/bin/mmdebstrap"""
    with script(tmp_path / "bin", "mmdebstrap", apt_get=text) as process:
        out, said = process.communicate(timeout=20)
    assert out == b"tar\n"
    assert b"I: installing mmdebstrap into the machine...\n" in said
    assert process.returncode == 0


def test_the_script_fails_if_it_cannot_be_installed(tmp_path: Path) -> None:
    with script(tmp_path / "bin", "mmdebstrap", apt_get="echo no >&2; exit 100") as process:
        out, said = process.communicate(timeout=20)
    assert (process.returncode, out) == (125, b"")
    assert said.endswith(b"no\n")


def test_a_signal_ends_the_script_at_once(tmp_path: Path) -> None:
    busy = f"echo $$ > {tmp_path}/pid; echo up; exec /bin/sleep 60"
    with script(tmp_path / "bin", "mmdebstrap", mmdebstrap=busy) as process:
        assert process.stdout
        assert process.stdout.readline() == b"up\n"
        process.send_signal(signal.SIGTERM)
        begin = time.monotonic()
        assert process.wait(timeout=20) == inside.INTERRUPTED
        assert time.monotonic() - begin < 10
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)  # the machine's end does it


# --- The run, with a machine that is a function -------------------------------------------------


def run_with(
    machine: Callable[[RunRequest], Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> tuple[bytes, list[str], str]:
    """Return the archive, the steps, and the log."""
    known = SimpleNamespace(mode=probes.Mode.SECCOMP)
    monkeypatch.setattr(probes, "uml_mode", lambda: known)

    def run(request: RunRequest) -> Any:
        return SimpleNamespace(outcome=machine(request))

    monkeypatch.setattr(apppot.run, "run", run)
    steps: list[str] = []
    log = tmp_path / "log" / "x.log"
    with open(tmp_path / "archive", "w+b") as archive:
        inside.run(PLAN, "sha256:b", epoch=5, archive=archive, log=str(log), step=steps.append)
        archive.seek(0)
        return archive.read(), steps, log.read_text()


def test_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def machine(request: RunRequest) -> Outcome:
        assert (request.image, request.user, request.job_dir) == ("sha256:b", "root", None)
        assert request.scratch == inside.DISK
        assert request.command[4:] == tuple(map(os.fsencode, mmdebstrap.arguments(PLAN)))
        assert os.read(request.stdio[0], 1) == b""
        os.write(request.stdio[1], b"tar")
        os.write(request.stdio[2], b"I: extracting archives...\nnoise\n" * 3000)
        return Outcome(0, Source.PAYLOAD, None)

    archive, steps, log = run_with(machine, tmp_path, monkeypatch)
    assert archive == b"tar"
    assert steps == ["extracting archives"] * 3000
    assert log.startswith("$ mmdebstrap --verbose --mode=root ")
    assert log.count("noise\n") == 3000


def test_a_failure_shows_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def machine(request: RunRequest) -> Outcome:
        os.write(request.stdio[2], b"E: Unable to locate package foo\n")
        return Outcome(25, Source.PAYLOAD, None)

    with pytest.raises(ImageError, match="status 25; its log is ") as error:
        run_with(machine, tmp_path, monkeypatch)
    assert "\n    E: Unable to locate package foo" in error.value.message
    assert "--include" in error.value.hint


def test_a_machine_that_breaks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = Outcome(125, Source.APPPOT, None, "the kernel panicked", "see doctor")
    with pytest.raises(MachineError, match="the kernel panicked; the log is ") as error:
        run_with(lambda _: outcome, tmp_path, monkeypatch)
    assert error.value.hint == "see doctor"


@pytest.mark.parametrize(
    "outcome",
    [Outcome(130, Source.PAYLOAD, None), Outcome(143, Source.FORCED, None, "ended by SIGTERM")],
)
def test_interruptions(outcome: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_with(lambda _: outcome, tmp_path, monkeypatch)


def test_the_log_is_closed_if_no_machine_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def machine(_: RunRequest) -> Outcome:
        raise AppPotError("no kernel")

    with pytest.raises(AppPotError, match="no kernel"):
        run_with(machine, tmp_path, monkeypatch)
    assert [thread for thread in threading.enumerate() if thread.name == "log"] == []


def test_the_base_is_made_if_there_is_none(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[bootstrap.Request] = []

    def made(request: bootstrap.Request, _step: Any) -> Any:
        asked.append(request)
        return SimpleNamespace(digest="sha256:d")

    monkeypatch.setattr(bootstrap, "bootstrap", made)
    request = bootstrap.Request("debian:trixie", mirror="http://h/debian", include=("gcc",))
    assert bootstrap._make_base(request, lambda _: None) == "sha256:d"
    (base,) = asked
    assert (base.source, base.name) == ("debian:bookworm", "apppot/bootstrap:bookworm")
    assert base.include == ("ca-certificates", "mmdebstrap")
    assert (base.mode, base.mirror) == ("fakechroot", "http://h/debian")
