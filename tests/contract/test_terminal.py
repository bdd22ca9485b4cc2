"""Contract: -t gives a terminal with a window size and job control, and the caller's one back."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import struct
import subprocess
import termios
from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.harness import PATIENCE, read_until, stopping, until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.contract.harness import AppPot, Word


class Screen:
    """A terminal, and a process in its foreground."""

    def __init__(
        self, process: subprocess.Popen[bytes], master: int, slave: int, before: list[Any]
    ) -> None:
        self.process = process
        self.master = master
        self.slave = slave
        self.seen = b""
        self.before = before

    def expect(self, text: bytes, timeout: float = PATIENCE) -> bytes:
        self.seen = read_until(self.master, text, self.seen, timeout)
        found, text, self.seen = self.seen.partition(text)
        return found + text

    def type(self, text: bytes) -> None:
        os.write(self.master, text)

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def settings(self) -> list[Any]:
        return termios.tcgetattr(self.slave)

    def wait(self) -> int:
        """Wait for the end; what is still printed goes to `seen`."""
        os.set_blocking(self.master, False)

        def ended() -> bool:
            with contextlib.suppress(OSError):
                self.seen += os.read(self.master, 65536)
            return self.process.poll() is not None

        assert until(ended)
        ended()
        return self.process.returncode


@contextlib.contextmanager
def screen(apppot: AppPot, argv: Sequence[Word]) -> Iterator[Screen]:
    master, slave = pty.openpty()
    fcntl.ioctl(master, termios.TIOCSWINSZ, struct.pack("HHHH", 33, 101, 0, 0))
    before = termios.tcgetattr(slave)
    process = subprocess.Popen(
        list(argv),
        stdin=slave,
        stdout=slave,
        stderr=slave,
        cwd=apppot.job,
        env={**apppot.environment, "TERM": "vt100"},
        start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509  no threads
    )
    with stopping(process):
        try:
            yield Screen(process, master, slave, before)
        finally:
            os.close(master)
            os.close(slave)


@contextlib.contextmanager
def on_terminal(apppot: AppPot, script: str, *options: str) -> Iterator[Screen]:
    line = apppot.line(("bash", "-c", script), ("-t", "--network", "none", *options))
    with screen(apppot, line) as shown:
        yield shown


@pytest.mark.sample
def test_it_is_a_terminal_of_the_callers_size_and_kind(apppot: AppPot) -> None:
    script = 'test -t 0 && test -t 1 && test -t 2 && stty size && echo "TERM=$TERM" && tty'
    with on_terminal(apppot, script) as shown:
        assert shown.expect(b"33 101\r\n") == b"33 101\r\n"
        shown.expect(b"TERM=vt100\r\n")
        shown.expect(b"/dev/pts/")
        assert shown.wait() == 0


def test_without_t_it_is_none(apppot: AppPot) -> None:
    line = apppot.line(("sh", "-c", "test -t 0 || test -t 1 || echo none"), ("--network", "none"))
    with screen(apppot, line) as shown:
        shown.expect(b"none\r\n")
        assert shown.wait() == 0


def test_t_without_a_terminal_is_an_error(apppot: AppPot) -> None:
    done = apppot.run("true", options=("-t",))
    assert done.status == 125
    assert "standard input is none" in done.complaint


def test_resize(apppot: AppPot) -> None:
    script = "trap 'stty size; exit 0' WINCH; echo up; while :; do sleep 0.05; done"
    with on_terminal(apppot, script) as shown:
        shown.expect(b"up\r\n")
        shown.resize(44, 122)
        shown.expect(b"44 122\r\n")
        assert shown.wait() == 0


@pytest.mark.sample
def test_control_c_is_an_interrupt_of_the_payload_alone(apppot: AppPot) -> None:
    # `up` comes from what is to be interrupted: before its fork the shell alone would be.
    script = "trap 'echo interrupted' INT; sh -c 'echo up; exec sleep 1000'; echo after:$?; exit 5"
    with on_terminal(apppot, script) as shown:
        shown.expect(b"up\r\n")
        shown.type(b"\x03")
        shown.expect(b"interrupted\r\n")
        shown.expect(b"after:130\r\n")
        assert shown.wait() == 5


def test_control_d_is_the_end_of_input(apppot: AppPot) -> None:
    with on_terminal(apppot, "echo up; cat; echo ended") as shown:
        shown.expect(b"up\r\n")
        shown.type(b"text\r\x04")
        shown.expect(b"ended\r\n")
        assert shown.wait() == 0


# A job that tells whether it has the terminal: its process group (5) is the terminal's (8).
JOB = (
    b'sh -c \'echo wai""ting; was=front; while :; do set -- $(cat /proc/$$/stat);'
    b' now=behind; [ $5 = $8 ] && now=front; [ $now$was != behindfront ] || echo be""hind;'
    b' [ $now$was != frontbehind ] || echo in fr""ont; was=$now; sleep 0.05; done\'\r'
)


@pytest.mark.sample
def test_job_control_in_the_shell(apppot: AppPot) -> None:
    argv = apppot.verb("shell", *apppot.engine.options, "--network", "none", apppot.image)
    with screen(apppot, argv) as shown:
        shown.type(b"PS1='ready> '; echo st''arted\r")
        shown.expect(b"started\r\n")
        shown.type(JOB)
        shown.expect(b"waiting\r\n")
        shown.type(b"\x1a")
        shown.expect(b"Stopped")
        shown.type(b"jobs -l | wc -l; echo jo''bs\r")
        shown.expect(b"jobs\r\n")
        shown.type(b"bg; echo backgr''ound\r")
        shown.expect(b"behind\r\n")
        shown.type(b"fg\r")
        shown.expect(b"in front\r\n")
        shown.type(b"\x03")
        shown.type(b"echo status:$?; exit 6\r")
        shown.expect(b"status:130\r\n")
        assert shown.wait() == 6


@pytest.mark.parametrize("ending", ["normal", "TERM", "limit", "panic"])
def test_the_callers_terminal_is_restored(apppot: AppPot, ending: str) -> None:
    options = ("--time-limit", "2") if ending == "limit" else ()
    script = "echo up; read line; exit 3" if ending == "normal" else "echo up; exec sleep 1000"
    with on_terminal(apppot, script, *options) as shown:
        before = shown.before
        shown.expect(b"up\r\n")
        assert shown.settings() != before  # raw: every key goes to the guest
        if ending == "normal":
            shown.type(b"go\r")
        elif ending == "TERM":
            shown.process.send_signal(signal.SIGTERM)
        elif ending == "panic":
            (kernel,) = (pid for pid in _children(shown.process.pid))
            os.kill(kernel, signal.SIGKILL)
        expected = {"normal": 3, "TERM": 143, "limit": 124, "panic": 125}[ending]
        assert shown.wait() == expected
        assert shown.settings() == before


def _children(pid: int) -> list[int]:
    with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
        return list(map(int, file.read().split()))


def test_suspended_by_a_signal_the_terminal_is_the_callers_again(apppot: AppPot) -> None:
    with on_terminal(apppot, "trap 'echo back' CONT; echo up; while :; do sleep 0.05; done") as up:
        before = up.before
        up.expect(b"up\r\n")
        raw = up.settings()
        up.process.send_signal(signal.SIGTSTP)
        assert until(lambda: up.settings() == before)
        up.process.send_signal(signal.SIGCONT)
        assert until(lambda: up.settings() == raw)
        up.expect(b"back\r\n")
        up.process.send_signal(signal.SIGTERM)
        assert up.wait() == 143


def test_bytes_pass_a_raw_terminal_unchanged(apppot: AppPot) -> None:
    script = "stty raw -echo; echo up; head -c 255 | od -An -v -tu1 | tr -s ' \\n' '  '"
    with on_terminal(apppot, script) as shown:
        shown.expect(b"up\n")
        shown.type(bytes(range(1, 256)))
        shown.expect(b" 253 254 255 ")
        assert shown.wait() == 0


@pytest.mark.sample
def test_exec_on_a_terminal(apppot: AppPot) -> None:
    with apppot.machine() as machine:
        script = "stty size; echo $TERM; trap 'stty size; exit 8' WINCH; echo up; while :; do"
        argv = apppot.verb(
            "exec", "-t", machine.ident, "--", "sh", "-c", f"{script} sleep 0.05; done"
        )
        with screen(apppot, argv) as shown:
            before = shown.before
            shown.expect(b"33 101\r\nvt100\r\nup\r\n")
            shown.resize(20, 40)
            shown.expect(b"20 40\r\n")
            assert shown.wait() == 8
            assert shown.settings() == before
