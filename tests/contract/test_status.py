"""Contract: the exit status is the payload's, or says which failure it was."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from tests.contract.harness import report_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.contract.harness import AppPot, Running

NOT_FATAL = {
    signal.SIGCHLD,
    signal.SIGCONT,
    signal.SIGURG,
    signal.SIGWINCH,
    signal.SIGSTOP,
    signal.SIGTSTP,
    signal.SIGTTIN,
    signal.SIGTTOU,
}
FATAL = sorted(set(range(1, 65)) - {int(number) for number in NOT_FATAL} - {32, 33})


@pytest.fixture(scope="module")
def machine(shared_apppot: AppPot) -> Iterator[Running]:
    with shared_apppot.machine() as running:
        yield running


@pytest.mark.sample
@pytest.mark.parametrize("code", [0, 1, 2, 77, 124, 125, 126, 127, 128, 137, 143, 254, 255])
def test_exit_code_of_a_run_and_its_report(apppot: AppPot, code: int) -> None:
    done = apppot.sh(f"echo here; exit {code}", options=("--report", "report.json"))
    assert (done.status, done.stdout, done.stderr) == (code, b"here\n", b"")
    report = report_of(apppot.path("report.json"))
    assert (report["source"], report["status"]) == ("payload", code)
    assert (report["exit_code"], report["signal"]) == (code, None)


@pytest.mark.sample
def test_every_exit_code(machine: Running) -> None:
    ident = machine.ident

    def one(code: int) -> tuple[int, bytes, bytes]:
        done = machine.exec("sh", "-c", f"echo {code}; exit {code}", ident=ident)
        return done.status, done.stdout, done.stderr

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(one, range(256)))
    assert found == [(code, f"{code}\n".encode(), b"") for code in range(256)]


def test_every_fatal_signal(machine: Running) -> None:
    ident = machine.ident

    def one(number: int) -> tuple[int, int, bytes]:
        done = machine.exec("sh", "-c", f"echo here; kill -{number} $$; sleep 100", ident=ident)
        return number, done.status, done.stdout

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(one, FATAL))
    assert found == [(number, 128 + number, b"here\n") for number in FATAL]


@pytest.mark.sample
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGSEGV])
def test_signal_of_a_run_and_its_report(apppot: AppPot, number: int) -> None:
    done = apppot.sh(f"echo here; kill -{number} $$", options=("--report", "report.json"))
    assert (done.status, done.stdout) == (128 + number, b"here\n")
    report = report_of(apppot.path("report.json"))
    assert (report["source"], report["status"]) == ("payload", 128 + number)
    assert (report["exit_code"], report["signal"]) == (None, number)


def _write(path: str, text: str, mode: int) -> None:
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    os.chmod(path, mode)


@pytest.mark.sample
@pytest.mark.parametrize(
    ("command", "status", "says"),
    [
        ("nothing-of-this-name", 127, "was not found in the image"),
        ("/no/such/program", 127, "was not found in the image"),
        ("/etc/passwd/program", 127, "was not found in the image"),
        ("", 127, "was not found in the image"),
        ("/job/plain", 126, "Permission denied"),
        ("/job", 126, "Permission denied"),
        ("/job/script", 126, "interpreter"),
    ],
)
def test_a_command_that_does_not_start(
    apppot: AppPot, command: str, status: int, says: str
) -> None:
    _write(apppot.path("plain"), "#!/bin/sh\n", 0o644)
    _write(apppot.path("script"), "#!/no/such/interpreter\n", 0o755)
    done = apppot.run(command, options=("--report", "report.json"))
    assert done.status == status, done
    assert done.stdout == b""
    assert says in done.complaint
    assert len(done.complaint.splitlines()) <= 2
    report = report_of(apppot.path("report.json"))
    assert (report["source"], report["exit_code"], report["signal"]) == ("apppot", None, None)


def test_a_file_without_an_interpreter_line_is_a_shell_script(apppot: AppPot) -> None:
    _write(apppot.path("plain"), 'echo "$#:$1"; exit 9\n', 0o755)
    done = apppot.run("/job/plain", "a b")
    assert (done.status, done.stdout, done.stderr) == (9, b"1:a b\n", b"")


def test_the_payloads_own_125_is_told_from_ours(apppot: AppPot) -> None:
    own = apppot.sh("exit 125", options=("--report", "own.json"))
    ours = apppot.sh("exit 0", options=("--report", "ours.json", "--workdir", "/no/such/folder"))
    assert (own.status, ours.status) == (125, 125)
    assert report_of(apppot.path("own.json"))["source"] == "payload"
    assert report_of(apppot.path("ours.json"))["source"] == "apppot"
    assert "/no/such/folder" in ours.complaint
    assert own.stderr == b""


def test_no_such_image_and_no_such_user_are_125(apppot: AppPot) -> None:
    user = apppot.run("true", options=("--user", "nobody-of-this-name"))
    assert user.status == 125
    assert "nobody-of-this-name" in user.complaint
    image = apppot.call(apppot.verb("run", "no-such-image:1", "--", "true"))
    assert image.status == 125
    assert "no-such-image:1" in image.complaint


def test_exec_says_when_a_command_does_not_start(machine: Running) -> None:
    missing = machine.exec("nothing-of-this-name")
    folder = machine.exec("/etc")
    workdir = machine.exec("true", options=("--workdir", "/no/such/folder"))
    assert (missing.status, folder.status, workdir.status) == (127, 126, 125)
    unknown = machine.exec("true", ident="ffffffffffff")
    assert unknown.status == 125
    assert "no machine" in unknown.complaint
