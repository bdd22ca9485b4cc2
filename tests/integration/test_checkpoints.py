"""Machines are saved in the middle of what they do, and go on: nothing is lost or doubled."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from apppot.errors import AppPotError
from apppot.machine import virtual
from tests.contract.conftest import IMAGE, environment
from tests.contract.harness import AppPot, Engine, Running, read_until, until
from tests.processes import children, command_of

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECKPOINTED = 85
PATIENCE = 90.0  # where instructions are translated on a busy host
SOON = 5.0  # 0.2 s on a host that does nothing else


@pytest.fixture
def apppot() -> Iterator[AppPot]:
    """Give the command line, with folders of its own and a machine that can be saved."""
    try:
        virtual.program()
    except AppPotError as error:
        pytest.skip(str(error))
    folder = tempfile.mkdtemp(prefix="apppot-checkpoints-")
    made = AppPot(Engine("tcg"), IMAGE, folder, environment())
    for each in (made.job, made.scratch, made.runtime):
        os.mkdir(each, 0o700)
    yield made.having(TMPDIR=made.scratch, APPPOT_RUNTIME_DIR=made.runtime)
    left = made.leftovers()
    shutil.rmtree(folder)
    assert not left


def options(apppot: AppPot, *more: str) -> tuple[str, ...]:
    return (
        *("--checkpoint-dir", apppot.path("saved"), "--checkpoint-on", "USR1", "--memory", "256M"),
        *("--no-job-dir", *more),
    )


def restore(apppot: AppPot, **streams: Any) -> subprocess.Popen[bytes]:
    words = apppot.verb("restore", apppot.path("saved"))
    return subprocess.Popen(words, cwd=apppot.job, env=apppot.environment, **streams)


def manifest(apppot: AppPot) -> dict[str, Any]:
    with open(apppot.path("saved", "checkpoint.json"), encoding="utf-8") as file:
        found: dict[str, Any] = json.load(file)
    return found


def saved_by_signal(running: Running) -> None:
    running.process.send_signal(signal.SIGUSR1)


def test_streams_go_on_at_the_very_byte(apppot: AppPot) -> None:
    """One pipe feeds both runs; what both write together is what went in, and nothing else."""
    lines = b"".join(b"%d\n" % n for n in range(400_000))
    source, feed = os.pipe()
    errors: list[BaseException] = []

    def write() -> None:
        try:
            with open(feed, "wb") as file:
                file.write(lines)
        except OSError as error:
            errors.append(error)

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    script = "cat; echo end >&2; exit 9"
    pipe = subprocess.PIPE
    with apppot.start(
        ["sh", "-c", script], options=options(apppot, "--network", "none"), stdin=source
    ) as running:
        first = running.expect(b"\n1000\n")
        saved_by_signal(running)
        time.sleep(0.5)  # meanwhile, nobody reads: windows and buffers are full
        ended = running.wait(PATIENCE)
    assert ended.status == CHECKPOINTED, ended.complaint
    assert "saved in" in ended.complaint
    went = first + ended.stdout
    assert len(went) < len(lines)
    process = restore(apppot, stdin=source, stdout=pipe, stderr=pipe)
    os.close(source)
    out, err = process.communicate(timeout=PATIENCE)
    assert (process.returncode, err) == (9, b"end\n")
    assert went + out == lines
    writer.join(10)
    assert not errors


def test_a_signal_while_the_machine_is_saved_is_not_the_payload_s(apppot: AppPot) -> None:
    """Batch systems warn, and then end the job: the second signal is not for what goes on later."""
    script = "trap 'echo caught' HUP; echo up; for n in $(seq 30); do sleep 0.1; done; echo on"
    with apppot.start(
        ["bash", "-c", f"{script}; exit 3"], options=options(apppot, "--network", "none")
    ) as running:
        running.expect(b"up\n")
        saved_by_signal(running)
        # Of signals that wait together, the handler of the highest number runs first: USR1's.
        running.process.send_signal(signal.SIGHUP)
        ended = running.wait(PATIENCE)
    assert (ended.status, ended.stdout) == (CHECKPOINTED, b""), ended.complaint
    process = restore(apppot, stdout=subprocess.PIPE)
    out, _ = process.communicate(timeout=PATIENCE)
    assert (process.returncode, out) == (3, b"on\n")


SCRIPT = r"""
exec 5<>/kept; echo before >&5; echo up
read line; echo "after $line" >&5; cat /kept
exec 3<>/dev/tcp/host.apppot/$1; read answer <&3; echo "$answer"
date +%s; head -c 16 /dev/urandom | md5sum
read end; exit 7
"""


@pytest.fixture
def server() -> Iterator[int]:
    """Answer whoever connects to a port of the loopback."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            try:
                while True:
                    connection, _ = listener.accept()
                    with connection:
                        connection.sendall(b"hello\n")
            except OSError:
                return

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def checkpoint(apppot: AppPot, *words: str) -> tuple[int, str]:
    (machine,) = apppot.machines()
    done = apppot.call(apppot.verb("checkpoint", *words, machine["id"]), timeout=PATIENCE)
    return done.status, done.text + done.complaint


def test_a_machine_goes_on_as_often_as_wanted(apppot: AppPot, server: int) -> None:
    """Open files, scratch, network, clock and randomness of one that is saved twice."""
    more = options(apppot, "--scratch", "64M", "--host-loopback", "--root")
    command = ["bash", "-c", SCRIPT, "bash", str(server)]
    pipe = subprocess.PIPE
    with apppot.start(command, options=more, stdin=pipe) as running:
        running.expect(b"up\n", PATIENCE)
        words = apppot.verb("exec", running.ident, "--", "sh", "-c", "echo in; read x")
        other = subprocess.Popen(words, env=apppot.environment, stdin=pipe, stdout=pipe)
        assert other.stdout
        read_until(other.stdout.fileno(), b"in\n")
        status, said = checkpoint(apppot)
        assert status == 1
        assert "runs commands of 'apppot exec': 1" in said
        other.communicate(b"\n", timeout=PATIENCE)
        status, said = checkpoint(apppot)
        assert (status, "saved in" in said) == (0, True), said
        first = manifest(apppot)
        status, said = checkpoint(apppot)  # it has gone on
        assert status == 0, said
        assert running.process.stdin
        running.process.stdin.write(b"first\n\n")
        assert running.wait(PATIENCE).status == 7
    second = manifest(apppot)
    assert first["memory"]["name"] != second["memory"]["name"]
    names = {"checkpoint.json", second["memory"]["name"], second["disk"]["name"]}
    assert set(os.listdir(apppot.path("saved"))) == names
    drawn = set()
    for word in (b"one", b"two"):
        process = restore(apppot, stdin=pipe, stdout=pipe, stderr=pipe)
        out, err = process.communicate(word + b"\n\n", timeout=PATIENCE)
        assert (process.returncode, err) == (7, b"")
        assert out.startswith(b"before\nafter " + word + b"\nhello\n"), out
        clock, random, _ = out.split(b"\n")[3:]
        assert abs(int(clock) - time.time()) < PATIENCE / 6
        drawn.add(random)
    assert len(drawn) == 2  # the same state does not draw the same numbers
    assert until(lambda: not apppot.machines())


def test_a_terminal_is_gone_on_with_on_another_one(apppot: AppPot) -> None:
    """The payload's own terminal is in the machine; each run lends it the caller's."""
    import pty

    seen = b""
    script = "echo up; read x; stty size; echo got $x; exit 3"
    for words, text, given in (
        (apppot.line(["sh", "-c", script], options(apppot, "--network", "none", "-t")), b"up", b""),
        (apppot.verb("restore", apppot.path("saved")), b"got it", b"it\r"),
    ):
        pid, terminal = pty.fork()
        if pid == 0:
            os.chdir(apppot.job)
            os.execve(words[0], words, apppot.environment)
        if given:
            time.sleep(1)
            os.write(terminal, given)
        seen = read_until(terminal, text, timeout=PATIENCE)
        if not given:
            os.kill(pid, signal.SIGUSR1)
        _, status = os.waitpid(pid, 0)
        os.close(terminal)
        assert os.waitstatus_to_exitcode(status) == (3 if given else CHECKPOINTED), seen
    assert b"24 80" in seen or b"0 0" in seen
    refused = apppot.call(apppot.verb("restore", apppot.path("saved")), stdin=b"")
    assert refused.status == 125
    assert "here is none" in refused.complaint


def test_folders_are_brought_in_and_changes_out(apppot: AppPot) -> None:
    with open(apppot.path("input"), "w", encoding="utf-8") as file:
        file.write("brought in\n")
    saved = ("--checkpoint-dir", os.path.join(apppot.folder, "saved"), "--checkpoint-on", "USR1")
    script = "cat input; echo partly >part; read x; cat input part >result; exit 4"
    more = (*saved, "--memory", "256M", "--network", "none", "--stage")
    with apppot.start(["sh", "-c", script], options=more, stdin=subprocess.PIPE) as running:
        running.expect(b"brought in\n", PATIENCE)
        saved_by_signal(running)
        running.process.wait(PATIENCE)  # its input is open until then: the payload waits for it
        assert running.wait(PATIENCE).status == CHECKPOINTED
    assert set(os.listdir(apppot.job)) == {"input"}
    other = os.path.join(apppot.folder, "other")
    words = apppot.verb("restore", "--job-dir", other, saved[1])
    refused = apppot.call(words)
    assert refused.status == 125
    assert "not there" in refused.complaint
    os.mkdir(other)
    done = apppot.call(words, stdin=b"\n", timeout=PATIENCE)
    assert (done.status, done.complaint) == (4, "")
    with open(os.path.join(other, "result"), encoding="utf-8") as file:
        assert file.read() == "brought in\npartly\n"
    assert set(os.listdir(apppot.job)) == {"input"}


def saved_machine(apppot: AppPot, *more: str) -> None:
    """Save a machine whose payload says `on` when it goes on, and ends with 3."""
    script = "echo up; read line; echo on; exit 3"
    words = options(apppot, "--network", "none", *more)
    with apppot.start(["sh", "-c", script], options=words, stdin=subprocess.PIPE) as running:
        running.expect(b"up\n", PATIENCE)
        saved_by_signal(running)
        running.process.wait(PATIENCE)  # its input is open until then: the payload waits for it
        assert running.wait(PATIENCE).status == CHECKPOINTED


def test_memory_that_is_damaged_is_told(apppot: AppPot) -> None:
    """QEMU waits for ever for the first byte, if there is none."""
    saved_machine(apppot)
    words = apppot.verb("restore", "--job-dir", apppot.job, apppot.path("saved"))
    refused = apppot.call(words, timeout=PATIENCE)
    assert (refused.status, "--job-dir" in refused.complaint) == (125, True)
    with open(apppot.path("saved", manifest(apppot)["memory"]["name"]), "r+b") as file:
        size = file.seek(0, os.SEEK_END)
        for intact in (size // 2, 0):
            file.seek(intact)
            file.write(os.urandom(size - intact))
            file.flush()
            done = apppot.call(apppot.verb("restore", apppot.path("saved")), timeout=PATIENCE)
            assert (done.status, done.stdout) == (125, b"")
            assert "is damaged" in done.complaint


def test_a_disk_that_is_damaged_is_told(apppot: AppPot) -> None:
    """One bit of it, before the machine runs; and it runs again when that bit is mended."""
    saved_machine(apppot, "--scratch", "64M")
    words = apppot.verb("restore", apppot.path("saved"))
    disk = manifest(apppot)["disk"]["name"]
    with open(apppot.path("saved", disk), "r+b", buffering=0) as file:
        for at in (1024 + 0x38, 60 << 20):  # ext4's magic number; nothing at all
            was = os.pread(file.fileno(), 1, at)
            os.pwrite(file.fileno(), bytes([was[0] ^ 0x10]), at)
            done = apppot.call(words, stdin=b"\n", timeout=PATIENCE)
            assert (done.status, done.stdout) == (125, b"")
            assert f"is damaged: {disk}: its digest" in done.complaint
            os.pwrite(file.fileno(), was, at)
    left = apppot.path("saved", "disk-01234567")  # by a run that was killed while it saved
    os.link(apppot.path("saved", disk), left)
    done = apppot.call(words, stdin=b"\n", timeout=PATIENCE)
    assert (done.status, done.stdout) == (3, b"on\n"), done.complaint
    assert not os.path.exists(left)


def written(apppot: AppPot) -> dict[str, int]:
    """Return the checkpoint's files, and when each was written."""
    return {each.name: each.stat().st_mtime_ns for each in os.scandir(apppot.path("saved"))}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_user_can_end_it_while_qemu_loads(apppot: AppPot, number: int) -> None:
    """Here QEMU is stuck; all is cleaned up, and the checkpoint is what it was."""
    saved_machine(apppot, "--scratch", "64M")
    before = written(apppot)
    stuck = apppot.path("bin")
    os.mkdir(stuck)
    with open(os.path.join(stuck, virtual.PROGRAM), "w", encoding="utf-8") as file:
        version = f"[ $1 = --version ] && exec {virtual.program()} --version"
        file.write(f"#!/bin/sh\n{version}\necho stuck >&2; exec sleep 1000\n")
        os.fchmod(file.fileno(), 0o755)
    slow = apppot.having(PATH=f"{stuck}:{os.environ['PATH']}")
    process = restore(slow, stderr=subprocess.PIPE)
    assert until(lambda: any(b"sleep" in command_of(pid) for pid in children(process.pid)))
    began = time.monotonic()
    process.send_signal(number)
    _, said = process.communicate(timeout=PATIENCE)
    assert time.monotonic() - began < SOON
    assert process.returncode == 128 + number
    assert f"ended by {signal.Signals(number).name}" in said.decode()
    assert written(apppot) == before
    assert not apppot.machines()


def bytes_read(pid: int) -> int:
    """Return how much a process has read so far."""
    with open(f"/proc/{pid}/io", encoding="ascii") as file:
        return int(file.readline().removeprefix("rchar: "))


def test_a_user_can_end_it_while_folders_are_brought_in(apppot: AppPot) -> None:
    with open(apppot.path("long"), "wb") as file:
        file.truncate(100 << 30)
    words = apppot.line(["true"], ("--stage", "--network", "none"))
    process = subprocess.Popen(
        words, cwd=apppot.job, env=apppot.environment, stderr=subprocess.PIPE
    )
    assert until(lambda: bytes_read(process.pid) > 1 << 28), process.poll()
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=PATIENCE)
    assert time.monotonic() - began < SOON
    assert process.returncode == 128 + signal.SIGINT
    assert "ended by SIGINT before the payload" in said.decode()
    assert not os.listdir(apppot.scratch)
