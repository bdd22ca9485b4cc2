"""Contract: signals are relayed; a second TERM, the grace period and limits end the machine."""

from __future__ import annotations

import os
import signal
import time
from typing import TYPE_CHECKING

import pytest

from apppot.drive import SAME_REQUEST
from tests.contract.harness import report_of, until

if TYPE_CHECKING:
    from tests.contract.harness import AppPot

RELAYED = (
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGQUIT,
    signal.SIGUSR1,
    signal.SIGUSR2,
)
OFFLINE = ("--network", "none")
# Prints a word at its start, one for each signal that it catches, and ends with status 7. For bash:
# dash loses a signal that comes while it starts a program (it takes vfork's child for itself).
TRAPS = (
    'for s in TERM INT HUP QUIT USR1 USR2; do trap "echo got $s; exit 7" $s; done;'
    " echo up; while :; do sleep 0.05; done"
)
DEAF = "trap '' TERM INT HUP; echo up; while :; do sleep 1; done"


@pytest.mark.parametrize("number", RELAYED)
def test_a_signal_reaches_the_payload(apppot: AppPot, number: signal.Signals) -> None:
    with apppot.start(("bash", "-c", TRAPS)) as running:
        running.expect(b"up\n")
        running.process.send_signal(number)
        done = running.wait()
    name = number.name.removeprefix("SIG")
    assert (done.status, done.stdout) == (7, f"got {name}\n".encode())


@pytest.mark.parametrize("number", RELAYED)
def test_a_signal_that_is_not_caught_ends_the_payload(
    apppot: AppPot, number: signal.Signals
) -> None:
    command = ("sh", "-c", "echo up; exec sleep 1000")
    with apppot.start(command, options=(*OFFLINE, "--report", "report.json")) as running:
        running.expect(b"up\n")
        running.process.send_signal(number)
        done = running.wait()
    assert done.status == 128 + number
    report = report_of(apppot.path("report.json"))
    assert (report["source"], report["signal"]) == ("payload", number)


@pytest.mark.sample
def test_a_term_after_the_payload_s_end_takes_nothing_away(apppot: AppPot) -> None:
    """Its output ends with it; machine and report take some hundredths of a second more."""
    options = (*OFFLINE, "--report", "report.json")
    for number in range(16):
        with apppot.start(("true",), options=options) as running:
            assert running.process.stdout is not None
            assert running.process.stdout.read() == b""
            time.sleep(number * 0.005)
            running.process.send_signal(signal.SIGTERM)
            assert running.wait().status == 0
        assert report_of(apppot.path("report.json"))["source"] == "payload"
        os.unlink(apppot.path("report.json"))


@pytest.mark.sample
def test_stop_and_continue(apppot: AppPot) -> None:
    script = (
        "trap 'echo continued' CONT; echo up; n=0;"
        " while :; do n=$((n+1)); echo $n >/job/count.new; mv /job/count.new /job/count;"
        " sleep 0.02; done"
    )
    with apppot.start(("bash", "-c", script)) as running:
        running.expect(b"up\n")
        assert until(lambda: _count(apppot) > 2)
        running.process.send_signal(signal.SIGTSTP)
        assert until(lambda: _state(running.pid) == "T")
        stopped = until(lambda: _steady(apppot))
        assert stopped
        running.process.send_signal(signal.SIGCONT)
        running.expect(b"continued\n")
        assert until(lambda: _count(apppot) > stopped)
        running.process.send_signal(signal.SIGTERM)
        assert running.wait().status == 128 + signal.SIGTERM


def test_a_payload_that_catches_tstp_gets_it(apppot: AppPot) -> None:
    script = "trap 'echo caught >caught; exit 5' TSTP; echo up; while :; do sleep 0.05; done"
    with apppot.start(("bash", "-c", script)) as running:
        running.expect(b"up\n")
        running.process.send_signal(signal.SIGTSTP)
        assert until(lambda: _state(running.pid) == "T")
        # Before the CONT, which takes a TSTP back that is still pending (signal(7)).
        assert until(lambda: os.path.exists(apppot.path("caught")))
        running.process.send_signal(signal.SIGCONT)
        done = running.wait()
    assert done.status == 5


def _count(apppot: AppPot) -> int:
    try:
        with open(apppot.path("count"), encoding="ascii") as file:
            return int(file.read())
    except FileNotFoundError:
        return 0


def _steady(apppot: AppPot) -> int:
    """Return the count if it does not move for a while, else 0."""
    before = _count(apppot)
    time.sleep(0.5)
    return before if _count(apppot) == before else 0


def _state(pid: int) -> str:
    with open(f"/proc/{pid}/stat", encoding="ascii") as file:
        return file.read().rpartition(")")[2].split()[0]


@pytest.mark.sample
def test_a_second_term_powers_the_machine_off(apppot: AppPot) -> None:
    options = (*OFFLINE, "--grace", "1000", "--report", "report.json")
    with apppot.start(("sh", "-c", DEAF), options=options) as running:
        running.expect(b"up\n")
        running.process.send_signal(signal.SIGTERM)
        time.sleep(SAME_REQUEST + 0.5)  # else both are one request, see decision 005
        assert running.process.poll() is None
        running.process.send_signal(signal.SIGTERM)
        done = running.wait(timeout=20)
    assert done.status == 128 + signal.SIGKILL
    assert "killed" in done.complaint
    report = report_of(apppot.path("report.json"))
    assert report["source"] == "forced"


def test_the_end_of_the_grace_period_powers_the_machine_off(apppot: AppPot) -> None:
    with apppot.start(("sh", "-c", DEAF), options=(*OFFLINE, "--grace", "1")) as running:
        running.expect(b"up\n")
        started = time.monotonic()
        running.process.send_signal(signal.SIGTERM)
        assert running.wait(timeout=20).status == 128 + signal.SIGKILL
    assert time.monotonic() - started >= 1.0


@pytest.mark.sample
@pytest.mark.parametrize(
    "script", ["exec sleep 1000", DEAF, "trap 'echo cleaned up; exit 0' TERM; sleep 1000 & wait"]
)
def test_the_time_limit(apppot: AppPot, script: str) -> None:
    started = time.monotonic()
    done = apppot.sh(
        script, options=("--time-limit", "1", "--grace", "1", "--report", "report.json")
    )
    assert done.status == 124, done
    assert "time limit" in done.complaint
    assert 1.0 <= time.monotonic() - started < 30
    assert report_of(apppot.path("report.json"))["source"] == "time-limit"
    if "cleaned" in script:
        assert done.stdout == b"cleaned up\n"


def test_a_payload_that_keeps_its_time_limit(apppot: AppPot) -> None:
    done = apppot.sh("echo done; exit 3", options=("--time-limit", "1h"))
    assert (done.status, done.stdout, done.stderr) == (3, b"done\n", b"")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("delay", [0.0, 0.05, 0.1, 0.15, 0.2, 0.3])
def test_a_signal_during_the_start(apppot: AppPot, number: signal.Signals, delay: float) -> None:
    """Whatever the launcher was doing: it ends with the signal's status and leaves nothing."""
    with apppot.start(("sleep", "1000"), options=("--grace", "1")) as running:
        if number == signal.SIGINT:  # CPython tells of one during its own start by a traceback
            assert until(lambda: os.listdir(apppot.runtime))
        time.sleep(delay)
        running.process.send_signal(number)
        done = running.wait(timeout=30)
    assert done.status in (128 + number, -number), done
    assert "Traceback" not in done.complaint


def test_nohup_protects_the_payload(apppot: AppPot) -> None:
    def ignore() -> None:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    script = "echo up; n=0; while [ ! -e /job/go ]; do sleep 0.05; done; echo survived"
    with apppot.start(("sh", "-c", script), preexec_fn=ignore) as running:
        running.expect(b"up\n")
        running.process.send_signal(signal.SIGHUP)
        with open(apppot.path("go"), "w", encoding="ascii"):
            pass
        done = running.wait()
    assert (done.status, done.stdout) == (0, b"survived\n")


@pytest.mark.sample
def test_signals_and_stop_reach_an_exec_and_a_machine(apppot: AppPot) -> None:
    with apppot.start(("bash", "-c", TRAPS)) as running:
        running.expect(b"up\n")
        ident = running.ident
        stop = apppot.call(apppot.verb("stop", ident))
        assert (stop.status, stop.stderr) == (0, b"")
        done = running.wait()
        assert (done.status, done.stdout) == (7, b"got TERM\n")
    assert apppot.machines() == []


def test_the_whole_group_gets_the_signal(apppot: AppPot) -> None:
    script = (
        "bash -c 'trap \"echo child; exit\" USR1; echo up; while :; do sleep 0.05; done'; echo sh"
    )
    with apppot.start(("bash", "-c", f"trap 'echo parent' USR1; {script}")) as running:
        running.expect(b"up\n")
        os.kill(running.pid, signal.SIGUSR1)
        done = running.wait()
    assert sorted(done.stdout.split()) == [b"child", b"parent", b"sh"]
