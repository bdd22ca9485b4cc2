"""The guest agent in its test mode: the real program, its relay and its commands."""

from __future__ import annotations

import os
import shutil
import signal
import struct
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.unit.guest_client import PATH, WINDOW, Agent, Frame, Type, frame, records, specification

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GUEST = os.path.join(os.path.dirname(__file__), "..", "..", "guest")
TERMINAL = (7, 1)
FOREVER = b"while :; do sleep 0.05; done"


@pytest.fixture(scope="session")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Build the agent so that undefined behaviour ends it at once."""
    compiler = shutil.which("musl-gcc") or shutil.which("gcc")
    if not compiler or not shutil.which("make"):
        pytest.skip("no C compiler and make here, so the agent cannot be built")
    out = str(tmp_path_factory.mktemp("guest"))
    trap = "-O1 -fsanitize=undefined -fsanitize-undefined-trap-on-error"
    command = ["make", "-s", "-C", GUEST, f"CC={compiler}", f"OUT={out}", f"CFLAGS={trap}"]
    subprocess.run([*command, f"{out}/agent"], check=True)
    return f"{out}/agent"


@pytest.fixture
def agent(program: str) -> Iterator[Agent]:
    running = Agent(program)
    yield running
    running.close()
    assert running.process.returncode == 0


def types(frames: list[Frame]) -> list[Type]:
    return [f.type for f in frames]


def test_hello_names_version_and_kernel(agent: Agent) -> None:
    assert agent.hello.type is Type.HELLO
    assert agent.hello.number(1) == 1
    assert agent.hello.records[3] == os.uname().release.encode()
    assert (agent.hello.number(4) or 0) > 0


def test_streams_are_separate_and_end_before_exited(agent: Agent) -> None:
    done = agent.shell("echo out; echo err >&2; exit 7")
    assert (done.stdout, done.stderr, done.code, done.signal) == (b"out\n", b"err\n", 7, None)
    assert types(done.frames)[0] is Type.STARTED
    assert types(done.frames)[-1] is Type.EXITED
    ends = [f.type for f in done.frames if f.type in (5, 6) and not f.payload]
    assert sorted(ends) == [Type.STDOUT, Type.STDERR]


def test_result_has_times_and_memory(agent: Agent) -> None:
    done = agent.shell("i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done")
    assert (done.last.number(9) or 0) > 1000
    assert (done.last.number(11) or 0) > 100_000


TEXT = st.binary(max_size=200).map(lambda raw: raw.replace(b"\0", b""))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(arguments=st.lists(TEXT, max_size=20), values=st.lists(TEXT, max_size=10))
def test_arguments_and_environment_arrive_byte_for_byte(
    agent: Agent, arguments: list[bytes], values: list[bytes]
) -> None:
    environment = tuple(b"V%d=%s" % (n, value) for n, value in enumerate(values))
    shell = (b"/bin/sh", b"-c", b"/bin/cat /proc/$$/cmdline; :", *arguments)
    done = agent.run(*shell, env=environment)
    assert done.stdout == b"".join(word + b"\0" for word in shell)
    done = agent.run(b"/bin/cat", b"/proc/self/environ", env=environment)
    assert done.stdout == b"".join(e + b"\0" for e in environment)


def test_long_argument_vectors(agent: Agent) -> None:
    arguments = [b"%0100d" % n for n in range(15000)]
    done = agent.run(b"/bin/sh", b"-c", b'printf "%s\n" "$@" | cksum; echo $#', b"sh", *arguments)
    assert done.code == 0
    assert done.stdout.endswith(b"\n15000\n")
    size = int(done.stdout.split()[1])
    assert size == 101 * 15000


def test_too_long_argument_vector_cannot_be_executed(agent: Agent) -> None:
    done = agent.run(b"/bin/true", *[b"x" * 100_000] * 70)
    assert done.last.type is Type.FAILED
    assert done.last.number(3) == 7  # E2BIG


@pytest.mark.parametrize("piece", [1, 7, 4096])
def test_specification_may_be_cut_anywhere(agent: Agent, piece: int) -> None:
    pairs = [(1, b"/bin/echo"), (1, b""), (1, b"x" * 50), (2, PATH[0])]
    agent.send(specification(Type.COMMAND, 9, records(pairs), piece))
    assert agent.until(9, Type.EXITED).stdout == b" " + b"x" * 50 + b"\n"


def test_numbers_of_an_exit_status(agent: Agent) -> None:
    assert [agent.shell(f"exit {n}").code for n in (0, 1, 126, 127, 255)] == [0, 1, 126, 127, 255]
    for number in (signal.SIGKILL, signal.SIGTERM, signal.SIGSEGV):
        done = agent.shell(f"kill -{int(number)} $$")
        assert (done.signal, done.code) == (number, None)


@pytest.mark.parametrize(
    ("name", "error"),
    [(b"no-such-program", 2), (b"/no/such", 2), (b"/etc/passwd/x", 20), (b"/etc/passwd", 13),
     (b"/etc", 13), (b"", 2), (b"x" * 300, 36)],
)  # fmt: skip
def test_errors_of_execution(agent: Agent, name: bytes, error: int) -> None:
    done = agent.run(name)
    assert done.last.type is Type.FAILED
    assert done.last.number(3) == error
    assert done.last.records[2] == b"command"
    assert done.last.records[4].startswith(b"execute ")
    assert agent.shell("echo alive").stdout == b"alive\n"


def test_path_search_goes_on_after_what_cannot_be_executed(agent: Agent, tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    (tmp_path / "a" / "tool").write_text("not executable")
    search = (b"PATH=%s:%s" % (bytes(tmp_path / "a"), bytes(tmp_path / "b")),)
    assert agent.run(b"tool", env=search).last.number(3) == 13
    (tmp_path / "b" / "tool").write_text("#!/bin/sh\necho found $0")
    (tmp_path / "b" / "tool").chmod(0o755)
    assert agent.run(b"tool", env=search).stdout == b"found %s\n" % bytes(tmp_path / "b" / "tool")


def test_script_without_interpreter_line_is_run_by_the_shell(agent: Agent, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text('printf "%s|" "$0" "$@"')
    script.chmod(0o755)
    done = agent.run(bytes(script), b"a b", b"")
    assert done.stdout == b"%s|a b||" % bytes(script)


def test_missing_interpreter_is_not_a_missing_program(agent: Agent, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    assert agent.run(bytes(script)).last.number(3) == 80 - 1  # ELIBACC
    assert agent.run(b"script", env=(b"PATH=%s" % bytes(tmp_path),)).last.number(3) == 79


def test_working_directory_and_umask(agent: Agent, tmp_path: Path) -> None:
    done = agent.shell("pwd; umask", more=[(3, bytes(tmp_path)), (10, 0o27)])
    assert done.stdout == b"%s\n0027\n" % bytes(tmp_path)
    failed = agent.run(b"pwd", more=[(3, b"/no/such")]).last
    assert failed.number(3) == 2
    assert failed.records[4] == b"working directory /no/such"


def test_user_that_the_guest_does_not_have(agent: Agent) -> None:
    failed = agent.run(b"id", more=[(11, b"no-such-user")]).last
    assert failed.type is Type.FAILED
    assert failed.records[4].startswith(b"user ")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_user_numbers_and_names(agent: Agent) -> None:
    done = agent.shell("id -u; id -g; id -G", more=[(4, 1234), (5, 2345), (6, 2345), (6, 77)])
    assert done.stdout == b"1234\n2345\n2345 77\n"
    done = agent.shell("id -un; echo $HOME $USER $LOGNAME", more=[(11, b"daemon")])
    assert done.stdout == b"daemon\n/usr/sbin daemon daemon\n"
    assert agent.shell("id -g", more=[(11, b"daemon:7")]).stdout == b"7\n"


def test_signals_and_descriptors_are_clean(agent: Agent) -> None:
    done = agent.shell("grep -E 'Sig(Blk|Ign)' /proc/self/status; ls /proc/self/fd")
    assert done.stdout.count(b"0000000000000000") == 2
    assert done.stdout.split()[-4:] == [b"0", b"1", b"2", b"3"]  # 3: the folder itself


def test_input_reaches_the_command_and_ends(agent: Agent) -> None:
    data = os.urandom(WINDOW)
    assert agent.run(b"cat", data=data).stdout == data


def test_large_streams_stay_within_their_windows(agent: Agent) -> None:
    data = os.urandom(3_000_000)
    done = agent.feed(agent.command(b"cat"), data)
    assert done.stdout == data
    assert done.code == 0


def test_output_stops_at_the_window_and_only_there(agent: Agent) -> None:
    total = 3_000_000  # more than the pipe holds
    ident = agent.command(b"head", b"-c", b"%d" % total, b"/dev/zero")
    size = 0
    while size < WINDOW:
        size += len(agent.until(ident, Type.STDOUT, credit=False).stdout)
    assert size == WINDOW
    assert agent.quiet(0.3)
    assert agent.shell("echo other").stdout == b"other\n"
    agent.credit(ident, 1, WINDOW)
    assert len(agent.until(ident, Type.EXITED).stdout) == total - WINDOW


def test_output_left_in_the_pipe_is_sent_before_exited(agent: Agent) -> None:
    ident = agent.command(b"head", b"-c", b"900000", b"/dev/zero")
    size, last = 0, None
    while last is not Type.EXITED:
        got = agent.receive()
        last = got.type
        if last is Type.STDOUT and got.payload:
            size += len(got.payload)
            agent.quiet(0.02)
            agent.credit(ident, 1, len(got.payload))
    assert size == 900_000


def test_close_becomes_sigpipe(agent: Agent) -> None:
    ident = agent.command(b"yes")
    agent.until(ident, Type.STDOUT, credit=False)
    agent.shut(ident, 1)
    assert agent.until(ident, Type.EXITED).signal == signal.SIGPIPE


def test_command_that_closes_its_input(agent: Agent) -> None:
    ident = agent.command(b"sh", b"-c", b"exec <&-; sleep 0.3; echo late")
    done = agent.until(ident, Type.CLOSE_INPUT)
    assert done.last.payload == b"\0"
    agent.input(ident, b"x" * 1000)
    assert agent.until(ident, Type.EXITED).stdout == b"late\n"


def test_background_processes_live_on_without_holding_the_end(agent: Agent, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    done = agent.shell(f"(sleep 0.5; echo lost; echo lost; echo yes > {mark}) & echo now")
    assert done.stdout == b"now\n"
    assert agent.shell(f"while ! [ -s {mark} ]; do sleep 0.05; done; cat {mark}").stdout == b"yes\n"


def test_signals_go_to_the_process_group(agent: Agent) -> None:
    ident = agent.command(b"sh", b"-c", b"sleep 100 | sleep 100")
    agent.until(ident, Type.STARTED)
    agent.signal(ident, signal.SIGTERM)
    assert agent.until(ident, Type.EXITED).signal == signal.SIGTERM
    script = b"trap 'echo got; exit 3' USR1; echo set; while :; do sleep 0.05; done"
    ident = agent.command(b"bash", b"-c", script)
    agent.until(ident, Type.STDOUT)
    agent.signal(ident, signal.SIGUSR1)
    done = agent.until(ident, Type.EXITED)
    assert (done.stdout, done.code) == (b"got\n", 3)


def test_stopping_is_not_ending(agent: Agent) -> None:
    ident = agent.command(b"sh", b"-c", b"echo up; sleep 0.2; echo on")
    agent.until(ident, Type.STDOUT)
    agent.signal(ident, signal.SIGSTOP)
    assert agent.quiet(0.5)
    agent.signal(ident, signal.SIGCONT)
    assert agent.until(ident, Type.EXITED).stdout == b"on\n"


def test_terminal_has_size_and_controls(agent: Agent) -> None:
    script = b"stty size; tty; [ -t 0 ] && [ -t 2 ] && echo yes > /dev/tty"
    ident = agent.command(b"sh", b"-c", script, more=[TERMINAL, (8, 33), (9, 99)])
    done = agent.until(ident, Type.EXITED)
    lines = done.stdout.split(b"\r\n")
    assert lines[0] == b"33 99"
    assert lines[1].startswith(b"/dev/pts/")
    assert lines[2] == b"yes"
    assert Type.STDERR not in types(done.frames)


def test_terminal_resize_and_interrupt(agent: Agent) -> None:
    script = b"trap 'stty size' WINCH; trap 'echo int; exit 4' INT; echo up; " + FOREVER
    ident = agent.command(b"bash", b"-c", script, more=[TERMINAL])
    agent.until(ident, Type.STDOUT)
    agent.send(frame(Type.RESIZE, ident, struct.pack("<4H", 50, 132, 0, 0)))
    assert agent.until(ident, Type.STDOUT).stdout.startswith(b"50 132")
    agent.input(ident, b"\x03", end=False)
    assert b"int" in agent.until(ident, Type.EXITED).stdout


def test_terminal_signal_goes_to_the_foreground(agent: Agent) -> None:
    inner = b"trap 'echo inner; exit 0' INT; echo up; " + FOREVER
    script = b"set -m; trap 'echo outer' INT; sh -c \"" + inner + b'"; echo end'
    ident = agent.command(b"bash", b"-c", script, more=[TERMINAL])
    agent.until(ident, Type.STDOUT)
    agent.signal(ident, signal.SIGINT)
    done = agent.until(ident, Type.EXITED)
    assert b"inner" in done.stdout
    assert b"end" in done.stdout


@pytest.mark.parametrize("data", [b"", b"line\n", b"open line"])
def test_terminal_end_of_input(agent: Agent, data: bytes) -> None:
    ident = agent.command(b"sh", b"-c", b"stty -echo; echo up; cat", more=[TERMINAL])
    agent.until(ident, Type.STDOUT)
    agent.input(ident, data)
    done = agent.until(ident, Type.EXITED)
    assert done.code == 0
    assert done.stdout.replace(b"\r", b"").endswith(data)


def test_terminal_output_is_whole_when_the_command_ends(agent: Agent) -> None:
    script = b"stty -opost; head -c 300000 /dev/zero"
    ident = agent.command(b"sh", b"-c", script, more=[TERMINAL])
    assert len(agent.until(ident, Type.EXITED).stdout) == 300_000


def test_terminal_held_by_a_background_process(agent: Agent) -> None:
    script = b"trap '' HUP; (while :; do echo more; done) & echo first"
    ident = agent.command(b"sh", b"-c", script, more=[TERMINAL])
    done = agent.until(ident, Type.EXITED)
    assert b"first" in done.stdout
    assert agent.shell("echo alive").stdout == b"alive\n"


def test_terminal_without_reader_hangs_up(agent: Agent) -> None:
    ident = agent.command(b"cat", more=[TERMINAL])
    agent.until(ident, Type.STARTED)
    agent.shut(ident, 1)
    assert agent.until(ident, Type.EXITED).signal == signal.SIGHUP


def test_many_commands_at_a_time(agent: Agent) -> None:
    idents = [agent.command(b"cat") for _ in range(64)]
    started = {agent.receive().id for _ in idents}
    assert started == set(idents)
    refused = agent.command(b"true")
    assert agent.until(refused, Type.FAILED).last.records[4].startswith(b"machine")
    for ident in idents:
        agent.input(ident, b"%d" % ident)
    ended: set[int] = set()
    while len(ended) < 64:
        got = agent.receive()
        if got.type is Type.EXITED:
            ended.add(got.id)
    assert agent.shell("echo alive").stdout == b"alive\n"


def test_power_off_says_bye_and_ends_all(agent: Agent, tmp_path: Path) -> None:
    ident = agent.command(b"sh", b"-c", b"trap '' TERM HUP; echo $$; sleep 100")
    pid = int(agent.until(ident, Type.STDOUT).stdout)
    agent.send(frame(Type.POWEROFF))
    bye = agent.receive()
    while bye.type is not Type.BYE:
        bye = agent.receive()
    assert bye.number(13) == 0
    agent.process.wait(20)
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_end_of_the_channel_ends_all(program: str) -> None:
    running = Agent(program)
    pid = int(
        running.until(running.command(b"sh", b"-c", b"echo $$; sleep 100"), Type.STDOUT).stdout
    )
    running.close()
    assert running.process.returncode == 0
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
