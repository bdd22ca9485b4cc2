"""Contract: a build that fails or is ended says where, leaves nothing, and can be looked into."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys

import pytest

from tests.contract.building import Builder, builder
from tests.contract.conftest import IMAGE
from tests.contract.harness import PATIENCE, stopping

assert builder  # a fixture


def test_a_step_that_fails(builder: Builder) -> None:
    done = builder.build("FROM ${BASE}\nRUN true\nRUN echo said; echo so >&2; \\\n exit 9\n")
    assert done.status == 1
    assert done.text == ""
    assert "said\nso\n" in done.complaint
    assert "Containerfile:4: RUN echo said; echo so >&2;  exit 9: exit status 9" in re.sub(
        " +", " ", done.complaint
    ).replace("; exit", ";  exit")
    assert "--debug" in done.complaint
    quiet = builder.build("FROM ${BASE}\nRUN true\nRUN echo said; exit 9\n", "-q")
    assert quiet.complaint.startswith("said\napppot: Containerfile:4: ")
    assert builder.apppot.call(builder.apppot.verb("inspect", "made")).status != 0


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ("COPY none /x", "'none' is not in the build context"),
        ("COPY --from=IMAGE /none /x", "/none is not in"),
        ("COPY --chown=nobodyelse a /x", "nobodyelse"),
        ("COPY a /etc/passwd/x", "Containerfile:3: "),
        ("USER nobodyelse\nRUN true", "user"),
        ("RUN nosuchprogram", "exit status 127"),
        ('RUN ["/nosuchprogram"]', "was not found in the image"),
        ("ADD broken.tar.gz /x\nCOPY none /y", "'none' is not in"),
    ],
)
def test_errors_name_the_line(builder: Builder, step: str, words: str) -> None:
    builder.write(a="a", **{"broken.tar.gz": "no archive"})
    done = builder.build(f"FROM ${{BASE}}\n{step}".replace("IMAGE", IMAGE))
    assert done.status in (1, 2)
    assert words in done.complaint
    line = 3 + step.count("\n")
    assert re.search(f"^apppot: Containerfile:{line}: ", done.complaint, re.MULTILINE)
    assert "Traceback" not in done.complaint


def test_base_that_is_not_there(builder: Builder) -> None:
    done = builder.build("FROM no.invalid/such:1")
    assert done.status == 1
    assert "Containerfile:2: FROM no.invalid/such:1: " in done.complaint


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("deaf", ["", "trap '' INT TERM; "])
def test_an_interrupted_build_leaves_nothing(builder: Builder, number: int, deaf: str) -> None:
    builder.write(Containerfile=f"FROM {IMAGE}\nRUN {deaf}echo begun; sleep 1000")
    process = subprocess.Popen(
        builder.words("--no-cache"),
        cwd=builder.apppot.job,
        env=builder.apppot.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with stopping(process):
        assert process.stderr is not None
        while process.stderr.readline() != b"begun\n":
            assert process.poll() is None
        process.send_signal(number)
        process.wait(PATIENCE)
        assert process.returncode != 0
    blobs = os.path.join(builder.apppot.folder, "store", "blobs", "sha256")
    assert [name for name in os.listdir(blobs) if name.startswith(".tmp")] == []


DEBUG = """
import os, pty, sys
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(sys.argv[1], sys.argv[1:])
said = b""
sent = False
while True:
    try:
        piece = os.read(terminal, 4096)
    except OSError:
        break
    if not piece:
        break
    said += piece
    if b"# " in said and b"a shell with" in said and not sent:
        os.write(terminal, b"cat /half; echo $V; pwd; exit\\n")
        sent = True
sys.stdout.buffer.write(said)
sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
"""


def test_debug_opens_a_shell_at_the_failed_state(builder: Builder) -> None:
    text = f"FROM {IMAGE}\nENV V=value\nWORKDIR /tmp\nRUN echo half-done >/half; false"
    builder.write(Containerfile=text)
    words = [sys.executable, "-c", DEBUG, *builder.words("--debug")]
    done = builder.apppot.call(words, timeout=2 * PATIENCE)
    assert done.status == 1
    assert "half-done\r\nvalue\r\n/tmp\r\n" in done.text
    without = builder.apppot.call(builder.words("--debug"))
    assert "no terminal" in without.complaint


def test_a_status_of_its_own_is_no_interruption(builder: Builder) -> None:
    done = builder.build("FROM ${BASE}\nRUN exit 130")
    assert done.status == 1
    assert "exit status 130" in done.complaint
