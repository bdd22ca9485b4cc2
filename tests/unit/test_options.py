"""Options of `run` and the request, identity and environment that they make."""

from __future__ import annotations

import os
import re

import pytest

from apppot.agent.frames import parse_records
from apppot.agent.results import CommandResult
from apppot.agent.spec import CommandSpec, Terminal
from apppot.cli import shell
from apppot.cli.options import request_from
from apppot.cli.parser import parse
from apppot.ending import command_status, command_trouble
from apppot.errors import UsageError
from apppot.identity import identity
from apppot.image.model import ImageConfig
from apppot.request import RunRequest
from apppot.run import environment, payload, shares


def _request(*words: str) -> RunRequest:
    _, options = parse(["run", *words])
    return request_from(options, options.command, terminal=False)


def test_defaults() -> None:
    found = _request("image", "--", "true")
    assert (found.image, found.command) == ("image", (b"true",))
    assert (found.memory, found.scratch, found.job_dir) == (1 << 30, None, ".")
    assert (found.time_limit, found.grace) == (None, 20.0)


def test_everything() -> None:
    found = _request(
        *("--memory", "auto", "--scratch", "2G", "--cpus", "2", "--time-limit", "1h30m"),
        *("--grace", "5", "--no-job-dir", "--network", "none", "--hostname", "n.x", "-e", "A=b"),
        *("--bind", "/etc:/x:ro", "--bind", "/usr", "--root", "-w", "/y", "image"),
    )
    assert (found.memory, found.scratch, found.cpus) == (None, 2 << 30, 2)
    assert (found.time_limit, found.grace, found.job_dir) == (5400.0, 5.0, None)
    assert (found.user, found.workdir, found.environment) == ("root", b"/y", (b"A=b",))
    assert [(s.source, s.target, s.read_only) for s in found.binds] == [
        ("/etc", b"/x", True),
        (os.path.realpath("/usr"), b"/usr", False),
    ]


@pytest.mark.parametrize(
    "words",
    [
        ("--kernel-arg", "ubd9=/etc/passwd"),
        ("--kernel-arg", "x hostfs=/"),
        ("--kernel-arg", "con3=x"),
        ("--kernel-arg", "apppot.channel=/dev/null"),
        ("--cpus", "65"),
        ("--memory", "63M"),
        ("--hostname", "a b"),
    ],
)
def test_refused(words: tuple[str, ...]) -> None:
    with pytest.raises(UsageError):
        _request(*words, "image")


@pytest.mark.parametrize(
    ("option", "choice"), [("--engine", "tcg"), ("--network", "none"), ("--uml-mode", "ptrace")]
)
def test_what_may_be_chosen_is_told(option: str, choice: str) -> None:
    with pytest.raises(UsageError, match="invalid choice: 'qemu'") as caught:
        _request(option, "qemu", "image")
    told = re.split(r"\W+", caught.value.message.partition("choose from")[2])
    assert choice in told
    assert not any(word[:1].isupper() for word in told)


def test_a_disk_has_a_host_name_that_its_kernel_takes() -> None:
    words = ["export", "image", "--format", "raw", "-o", "disk", "--hostname"]
    assert parse([*words, "node-1.x"])[1].hostname == "node-1.x"
    for bad in ("a b", "a\n127.0.0.1 b", "x" * 65, ""):
        with pytest.raises(UsageError, match="not a host name"):
            parse([*words, bad])


def test_identities() -> None:
    assert (identity("root").uid, identity("0").home, identity("0:0").name) == (0, "/root", "root")
    numbers = identity("12:34")
    assert (numbers.uid, numbers.gid, numbers.name) == (12, 34, "user12")
    assert identity("12").gid == 12
    assert identity("daemon").image_name == "daemon"
    for bad in ("4294967296", "1:2:3", "No Such", "-1", "a" * 40):
        with pytest.raises(UsageError):
            identity(bad)


def test_environment_is_clean_and_the_users_word_is_last() -> None:
    config = ImageConfig(env=("PATH=/image", "B=image", "HOME=/image"))
    found = dict(
        setting.split(b"=", 1)
        for setting in environment(identity("12:34"), config, (b"B=\xff=x", b"C="), "vt100")
    )
    assert found == {
        b"PATH": b"/image",
        b"HOME": b"/image",
        b"USER": b"user12",
        b"LOGNAME": b"user12",
        b"TERM": b"vt100",
        b"B": b"\xff=x",
        b"C": b"",
    }


def test_payload_and_shares() -> None:
    config = ImageConfig(entrypoint=("entry",), cmd=("own",))
    assert payload(RunRequest("i"), config) == (b"entry", b"own")
    assert payload(RunRequest("i", command=(b"x",)), config) == (b"entry", b"x")
    assert payload(RunRequest("i", entrypoint=(b"e",)), config) == (b"e",)
    assert payload(RunRequest("i", entrypoint=(), command=(b"x",)), config) == (b"x",)
    assert payload(RunRequest("i", entrypoint=()), config) == (b"/bin/sh",)
    assert payload(RunRequest("i"), ImageConfig()) == (b"/bin/sh",)
    with pytest.raises(UsageError, match="empty name"):
        shares(RunRequest("i", job_dir=""))
    with pytest.raises(UsageError, match="two folders"):
        shares(_request("--bind", "/etc:/job/", "image"))


@pytest.mark.parametrize(
    ("result", "status"),
    [
        (None, 125),
        (CommandResult(code=0), 0),
        (CommandResult(code=255), 255),
        (CommandResult(signal=9), 137),
        (CommandResult(failure="x", failure_errno=2), 127),
        (CommandResult(failure="x", failure_errno=20), 127),
        (CommandResult(failure="x", failure_errno=13), 126),
        (CommandResult(failure="x", failure_errno=79), 126),
        (CommandResult(failure="working directory /x", failure_errno=2), 125),
        (CommandResult(failure="user x", failure_errno=2), 125),
    ],
)
def test_statuses(result: CommandResult | None, status: int) -> None:
    assert command_status(result) == status
    if result and result.failure:
        message, _ = command_trouble(b"prog\xff", result)
        assert "\n" not in message


def test_a_commands_records() -> None:
    spec = CommandSpec((b"a\xff",), (b"E=1",), b"/w", 7, 8, (9,), Terminal(3, 4), user="u")
    found = parse_records(spec.encode())
    assert found[1] == b"a\xff"
    assert [int.from_bytes(found[tag], "little") for tag in (4, 5, 6, 7, 8, 9, 10)] == [
        7,
        8,
        9,
        1,
        3,
        4,
        0o22,
    ]
    assert found[11] == b"u"


def test_a_shell_is_a_shell_whatever_the_images_entry_point(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[RunRequest] = []
    monkeypatch.setattr(shell, "run_for_user", lambda request, *_: asked.append(request))
    shell.main(parse(["shell", "image"])[1])
    assert payload(asked[0], ImageConfig(entrypoint=("entry",)))[0] == b"/bin/sh"
