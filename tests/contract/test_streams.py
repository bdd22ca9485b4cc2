"""Contract: three separate byte streams with end-of-file and back-pressure both ways."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pty
import signal
import socket
import subprocess
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.contract.harness import stopping, until
from tests.processes import memory_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.contract.harness import AppPot

NOISE = bytes(range(256)) * 64


def _feed(descriptor: int, seed: bytes, blocks: int) -> str:
    """Write blocks of unpredictable bytes, close, and return their digest."""
    digest = hashlib.sha256()
    block = hashlib.shake_256(seed).digest(1 << 20)
    with open(descriptor, "wb", buffering=0) as file:
        for number in range(blocks):
            piece = block[number % 251 :] + number.to_bytes(8, "little")
            digest.update(piece)
            left = memoryview(piece)
            while left:
                left = left[file.write(left) :]
    return digest.hexdigest()


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_256_megabytes_through_a_payload_with_stderr_between(apppot: AppPot) -> None:
    # tee's second output goes through dd, which talks on stderr for every 4 MiB.
    script = (
        "tee /dev/fd/3 3>&1 >/dev/null | while dd bs=4M count=1 iflag=fullblock status=none"
        " of=/dev/stdout; do echo block >&2; [ -e /nothing ] && break;"
        ' n=$((n+1)); [ "$n" -ge 65 ] && break; done; echo end >&2'
    )
    digest = hashlib.sha256()
    with apppot.start(("sh", "-c", script), stdin=subprocess.PIPE) as running:
        process = running.process
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        sent: list[str] = []
        said: list[bytes] = []
        stdin = os.dup(process.stdin.fileno())
        feeder = threading.Thread(target=lambda: sent.append(_feed(stdin, b"256 MB", 256)))
        stderr = process.stderr
        listener = threading.Thread(target=lambda: said.append(stderr.read()))
        feeder.start()
        process.stdin.close()
        listener.start()
        while data := os.read(process.stdout.fileno(), 1 << 20):
            digest.update(data)
        feeder.join()
        listener.join()
        assert process.wait() == 0
    assert [digest.hexdigest()] == sent
    assert said == [b"block\n" * 65 + b"end\n"]


@pytest.mark.sample
def test_streams_are_separate_and_binary_safe(apppot: AppPot) -> None:
    done = apppot.sh("tee /dev/stderr", stdin=NOISE)
    assert (done.status, done.stdout, done.stderr) == (0, NOISE, NOISE)


@pytest.mark.parametrize("user", ["1234:4321", "daemon", "root"])
def test_streams_can_be_opened_by_their_names(apppot: AppPot, user: str) -> None:
    script = "echo out >/dev/stdout; echo err >/dev/stderr; cat /dev/stdin"
    done = apppot.sh(script, options=("--user", user), stdin=b"in\n")
    assert (done.status, done.stdout, done.stderr) == (0, b"out\nin\n", b"err\n")


def test_verbose_does_not_touch_standard_output(apppot: AppPot) -> None:
    done = apppot.sh("echo out; echo err >&2; dmesg >/dev/null", options=("-v",))
    assert done.stdout == b"out\n"
    assert b"err\n" in done.stderr
    assert len(done.stderr.splitlines()) > 1
    silent = apppot.sh("echo '<0>spoken by the kernel' >/dev/kmsg; echo out", options=("--root",))
    assert (silent.stdout, silent.stderr) == (b"out\n", b"")


@pytest.mark.sample
def test_end_of_file_reaches_the_payload(apppot: AppPot) -> None:
    done = apppot.sh("wc -c; echo after", stdin=b"x" * 70000)
    assert done.stdout.split() == [b"70000", b"after"]


def test_end_of_file_on_one_output_reaches_the_reader(apppot: AppPot) -> None:
    with apppot.start(("sh", "-c", "echo out; exec >&-; cat >&2"), stdin=subprocess.PIPE) as up:
        assert up.process.stdout is not None
        assert up.process.stdin is not None
        assert up.process.stdout.read() == b"out\n"  # ends while the payload runs
        assert up.process.poll() is None
        up.process.stdin.write(b"err\n")
        _, stderr = up.process.communicate()
        assert (up.process.returncode, stderr) == (0, b"err\n")


def test_end_of_file_on_the_output_of_an_exec_reaches_its_reader(apppot: AppPot) -> None:
    script = "echo out; exec >&-; cat >&2; exit 3"
    with apppot.machine() as machine:
        process = subprocess.Popen(
            apppot.verb("exec", machine.ident, "--", "sh", "-c", script),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=apppot.environment,
        )
        with stopping(process):
            assert process.stdout is not None
            assert process.stdout.read() == b"out\n"  # ends while the command runs
            assert process.poll() is None
            assert process.communicate(b"err\n") == (b"", b"err\n")
        assert process.returncode == 3


def test_a_reader_that_goes_away_is_a_sigpipe(apppot: AppPot) -> None:
    script = "trap 'echo caught >&2' EXIT; yes; echo status:$? >&2"
    started = time.monotonic()
    with apppot.start(("sh", "-c", script)) as running:
        assert running.process.stdout is not None
        assert os.read(running.process.stdout.fileno(), 1) == b"y"
        running.process.stdout.close()
        running.process.stdout = None
        _, stderr = running.process.communicate(timeout=30)
    assert stderr == b"status:141\ncaught\n"
    assert running.process.returncode == 0
    assert time.monotonic() - started < 30


@pytest.mark.sample
def test_head_ends_the_payload(apppot: AppPot) -> None:
    line = [os.fsdecode(word) for word in apppot.line(("yes",), ("--network", "none"))]
    pipeline = ["bash", "-c", '"$@" | head -c 1; echo " ${PIPESTATUS[*]}"', "bash", *line]
    done = apppot.call(pipeline, timeout=30)
    assert (done.stdout, done.stderr) == (b"y 141 0\n", b"")


@pytest.mark.sample
def test_a_payload_that_does_not_read_gets_no_more_than_a_window(apppot: AppPot) -> None:
    with apppot.start(("sh", "-c", "echo up; exec sleep 1000"), stdin=subprocess.PIPE) as running:
        running.expect(b"up\n")
        stdin = running.process.stdin
        assert stdin is not None
        os.set_blocking(stdin.fileno(), False)
        written = 0
        quiet = 0.0
        while quiet < 1.0:  # stuck for a second: the window and all pipes are full
            try:
                written += os.write(stdin.fileno(), b"x" * 65536)
                quiet = 0.0
            except BlockingIOError:
                time.sleep(0.05)
                quiet += 0.05
            assert written < 4 << 20  # a pipe of 64 KiB, the window of 128 KiB, a pipe of 1 MiB
        assert written >= 131072


def test_a_slow_reader_stops_the_payload_and_costs_no_memory(apppot: AppPot) -> None:
    script = "echo up >&2; dd if=/dev/zero bs=1M count=512 status=none; echo written >&2"
    with apppot.start(("sh", "-c", script)) as running:
        process = running.process
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stderr.read(3) == b"up\n"
        assert os.read(process.stdout.fileno(), 1) == b"\0"
        before = memory_of(process.pid)
        os.set_blocking(process.stderr.fileno(), False)
        for _ in range(10):
            time.sleep(0.1)
            assert process.stderr.read() is None  # dd is blocked, not done
        assert memory_of(process.pid) - before < 8 << 20
        total = 1
        while data := os.read(process.stdout.fileno(), 1 << 20):
            total += len(data)
        assert total == 512 << 20
        assert process.wait() == 0


@pytest.mark.parametrize("kind", ["null", "file", "pipe", "pty", "socket"])
def test_standard_input_may_be_anything(apppot: AppPot, kind: str) -> None:
    with _input(apppot, kind) as (descriptor, expected):
        done = apppot.sh("cat; echo end", stdin=descriptor)
    assert (done.status, done.stdout, done.stderr) == (0, expected + b"end\n", b"")


@contextlib.contextmanager
def _input(apppot: AppPot, kind: str) -> Iterator[tuple[int, bytes]]:
    text = b"some input\n"
    with contextlib.ExitStack() as stack:
        if kind == "null":
            reader, text = os.open(os.devnull, os.O_RDONLY), b""
        elif kind == "file":
            path = os.path.join(apppot.folder, "input")
            with open(path, "wb") as file:
                file.write(text)
            reader = os.open(path, os.O_RDONLY)
        elif kind == "pipe":
            reader, writer = os.pipe()
            os.write(writer, text)
            os.close(writer)
        elif kind == "socket":
            first, second = socket.socketpair()
            first.sendall(text)
            first.close()
            reader = second.detach()
        else:
            writer, reader = pty.openpty()
            stack.callback(os.close, writer)
            os.write(writer, text + b"\x04")
        stack.callback(os.close, reader)
        yield reader, text


def _closed(apppot: AppPot, closing: str, script: str) -> subprocess.Popen[bytes]:
    line = [os.fsdecode(word) for word in apppot.line(("sh", "-c", script), ("--network", "none"))]
    return subprocess.Popen(
        ["sh", "-c", f'exec "$@" {closing}', "sh", *line],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=apppot.job,
        env=apppot.environment,
    )


def test_closed_standard_input_is_an_empty_one(apppot: AppPot) -> None:
    process = _closed(apppot, "<&-", "cat; echo end")
    with stopping(process):
        assert process.communicate(timeout=60) == (b"end\n", b"")
        assert process.returncode == 0


@pytest.mark.parametrize("closing", [">&-", "2>&-"])
def test_a_closed_output_loses_only_its_own(apppot: AppPot, closing: str) -> None:
    process = _closed(apppot, closing, "echo out; echo err >&2; echo kept >/job/kept; exit 3")
    with stopping(process):
        out, err = process.communicate(timeout=60)
    assert process.returncode == 3
    assert (out, err) == ((b"", b"err\n") if closing == ">&-" else (b"out\n", b""))
    with open(apppot.path("kept"), "rb") as file:
        assert file.read() == b"kept\n"


def test_an_error_with_closed_standard_error_does_not_go_to_the_output(apppot: AppPot) -> None:
    process = subprocess.Popen(
        ["sh", "-c", 'exec "$@" 2>&-', "sh", *map(os.fsdecode, apppot.verb("run", "no:such"))],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        cwd=apppot.job,
        env=apppot.environment,
    )
    with stopping(process):
        assert process.communicate(timeout=60)[0] == b""
        assert process.returncode == 125


def test_everything_closed_still_runs(apppot: AppPot) -> None:
    process = _closed(apppot, "<&- >&- 2>&-", "echo kept >/job/kept; exit 3")
    with stopping(process):
        process.communicate(timeout=60)
    with open(apppot.path("kept"), "rb") as file:
        assert file.read() == b"kept\n"
    assert process.returncode == 3


def test_a_full_disk_behind_standard_output(apppot: AppPot) -> None:
    with open("/dev/full", "wb") as full:
        done = apppot.run("sh", "-c", "yes | head -c 1000000; echo end >&2", stdout=full)
    assert done.status == 125
    assert "No space left on device" in done.complaint
    assert "end\n" in done.complaint  # the payload saw a SIGPIPE and went on
    assert "Traceback" not in done.complaint


def test_a_background_process_does_not_delay_the_end(apppot: AppPot) -> None:
    started = time.monotonic()
    done = apppot.sh("echo early; sleep 1000 & exit 4")
    assert (done.status, done.stdout) == (4, b"early\n")
    assert time.monotonic() - started < 30


@pytest.mark.sample
def test_output_just_before_the_end_is_complete(apppot: AppPot) -> None:
    done = apppot.sh("head -c 3000000 /dev/zero; head -c 300000 /dev/zero >&2; kill -9 $$")
    assert done.status == 128 + signal.SIGKILL
    assert (len(done.stdout), len(done.stderr)) == (3_000_000, 300_000)


def test_non_blocking_flags_of_the_caller_stay_as_they_were(apppot: AppPot) -> None:
    reader, writer = os.pipe()
    command = ("sh", "-c", "echo up; cat >/dev/null")
    with (
        open(reader, "rb") as source,
        open(writer, "wb") as sink,
        apppot.start(command, stdin=source) as running,
    ):
        running.expect(b"up\n")
        assert os.get_blocking(reader)
        assert os.get_blocking(running.process.stdout.fileno())  # type: ignore[union-attr]
        sink.close()
        assert running.wait().status == 0


@pytest.mark.sample
def test_the_launcher_sleeps_while_the_payload_does(apppot: AppPot) -> None:
    """A busy loop on a hung-up or full stream would burn a CPU unseen."""
    script = "echo up; exec sleep 1000"
    for stdin in (subprocess.DEVNULL, subprocess.PIPE):
        with apppot.start(("sh", "-c", script), stdin=stdin) as running:
            running.expect(b"up\n")
            pid = running.pid
            used = _cpu_time(pid)
            until(lambda: False, patience=1.0)
            assert _cpu_time(pid) - used < 0.3


def _cpu_time(pid: int) -> float:
    with open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
