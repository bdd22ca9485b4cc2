"""apppot-start and apppot-snap do what users of the original relied on.

The original's source told what that is: options, files, payloads, archives of changes.
"""

from __future__ import annotations

import os
import pty
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.contract.harness import read_until, stopping
from tests.contract.originals import WHO, image_of, job, put, site, start, writable

if TYPE_CHECKING:
    from tests.contract.harness import AppPot


assert job
assert site  # fixtures


def test_program_runs_in_the_job_folder_as_the_caller(job: AppPot) -> None:
    script = 'pwd; id -u; id -g; id -un; echo "$HOME"; touch mine'
    done = start(job, "sh", "-c", script)
    home = "/root" if WHO == "root" else "/home/user"
    expected = ["/home/user/job", str(os.getuid()), str(os.getgid()), WHO, home]
    assert done.text.split() == expected, done.complaint
    assert os.stat(job.path("mine")).st_uid == os.getuid()


def test_program_by_its_path_in_the_guest(job: AppPot) -> None:
    put(job, "forwardPremium", '#!/bin/sh\necho "$0 $*"; exit 3\n')
    done = start(job, "/home/user/job/forwardPremium", "a b", "", "*")
    assert (done.status, done.text) == (3, "/home/user/job/forwardPremium a b  *\n")


def test_options_end_at_the_first_word(job: AppPot) -> None:
    assert start(job, "--mem", "128M", "--", "echo", "--mem", "-X").text == "--mem -X\n"
    assert start(job, "--mem=128M", "echo", "--", "-h").text == "-- -h\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--bogus", "true"), "unknown option '--bogus'"),
        (("--mem",), "needs a value"),
        (("--mem", "lots", "true"), "not a size"),
        (("--apppot", "missing.img", "true"), "missing.img"),
        (("--changes", "missing.tar.gz", "true"), "cannot read the archive of changes"),
    ],
)
def test_mistakes_are_named(job: AppPot, words: tuple[str, ...], says: str) -> None:
    done = start(job, *words)
    assert done.status == 125
    assert says in done.complaint
    assert "Traceback" not in done.complaint


def test_help_and_version(job: AppPot) -> None:
    assert "COW,IMAGE" in start(job, "--help").text
    assert start(job, "-V").text.startswith("apppot-start (AppPot ")


def test_payload_without_a_program(job: AppPot) -> None:
    assert (
        start(job, stdin=b"echo from the shell; pwd\n").text == "from the shell\n/home/user/job\n"
    )
    put(job, "apppot-run", "#!/bin/sh\necho staged; exit 9\n", 0o644)
    assert "staged" not in start(job).text  # not executable
    os.chmod(job.path("apppot-run"), 0o755)
    done = start(job)
    assert (done.status, done.text) == (9, "staged\n")


def test_autorun_of_the_image(job: AppPot) -> None:
    disk = writable(job)
    install = (
        "mkdir -p /home/user && printf '#!/bin/sh\\necho autorun in $PWD\\n' "
        ">/home/user/apppot-autorun && chmod 755 /home/user/apppot-autorun"
    )
    words = ("run", "--root", "--network", "none", "--write", disk, "--", "sh", "-c", install)
    assert job.call(job.verb(*words)).status == 0
    assert start(job, "--apppot", disk).text == "autorun in /home/user/job\n"


def test_environment_chooses_image_and_memory(job: AppPot) -> None:
    done = start(job.having(APPPOT_MEM="200M"), "grep", "MemTotal", "/proc/meminfo")
    assert 150_000 < int(done.text.split()[1]) < 205_000
    default = start(job, "grep", "MemTotal", "/proc/meminfo")
    assert 450_000 < int(default.text.split()[1]) < 525_000
    named = start(job, "--mem", "1G", "grep", "MemTotal", "/proc/meminfo")
    assert int(named.text.split()[1]) > 950_000


def test_extra_reaches_the_command_line_of_the_kernel(job: AppPot) -> None:
    words = ("--extra", "VMMAD_AUTH='s3cret token'", "-X", 'b="x"', "--extra", "con0=null")
    done = start(job, *words, "cat", "/proc/cmdline")
    assert " VMMAD_AUTH='s3cret token' b=\"x\" " in done.text.replace("\n", " ")
    assert "con0=null: left out" in done.complaint


def test_image_of_a_store(job: AppPot) -> None:
    done = start(job, "--image", job.image, "sh", "-c", "pwd; touch /tmp/x; exit 4")
    assert (done.status, done.text) == (4, "/home/user/job\n")


def test_changes_to_a_read_only_image_are_thrown_away(job: AppPot) -> None:
    started = [
        subprocess.Popen(
            ["./apppot-start.sh", "sh", "-c", f"echo {n} >/tmp/own; sleep 1; cat /tmp/own"],
            cwd=job.job,
            env=job.environment,
            stdout=subprocess.PIPE,
        )
        for n in range(3)
    ]
    assert [p.communicate()[0] for p in started] == [b"0\n", b"1\n", b"2\n"]
    assert start(job, "ls", "/tmp").text == ""


def test_writable_image_is_written_one_machine_at_a_time(job: AppPot) -> None:
    disk = writable(job)
    line = [
        "./apppot-start.sh",
        "--apppot",
        disk,
        "sh",
        "-c",
        "echo $$ >>/tmp/log; wc -l </tmp/log",
    ]
    started = [
        subprocess.Popen(line, cwd=job.job, env=job.environment, stdout=subprocess.PIPE)
        for _ in range(3)
    ]
    assert sorted(p.communicate()[0] for p in started) == [b"1\n", b"2\n", b"3\n"]


@pytest.mark.parametrize("separator", [",", ":"])
def test_cow_file_keeps_changes(job: AppPot, separator: str) -> None:
    shutil.copy(image_of(job), job.path("abc.img"))
    pair = f"abc.cow{separator}abc.img"
    assert start(job, "--apppot", pair, "sh", "-c", "echo kept >/tmp/x").status == 0
    done = start(job, "--apppot", pair, "cat", "/tmp/x")
    assert (done.status, done.text) == (0, "kept\n"), done.complaint
    assert os.stat(job.path("abc.cow")).st_blocks * 512 < 4 << 20
    assert start(job, "--apppot", "abc.img", "cat", "/tmp/x").status == 1


def test_cow_file_of_an_image_of_a_store(job: AppPot) -> None:
    for expected in ("1\n", "2\n"):
        pair = f"s.cow,{job.image}"
        done = start(job, "--apppot", pair, "sh", "-c", "echo x >>/tmp/x; wc -l </tmp/x")
        assert done.text == expected, done.complaint


def test_cow_file_survives_a_kill(job: AppPot) -> None:
    pair = f"abc.cow,{image_of(job)}"
    line = ["./apppot-start.sh", "--apppot", pair, "sh", "-c", "echo a >/tmp/a; sync; echo up; cat"]
    pipe = subprocess.PIPE
    process = subprocess.Popen(line, cwd=job.job, env=job.environment, stdin=pipe, stdout=pipe)
    with stopping(process):
        assert process.stdout
        read_until(process.stdout.fileno(), b"up\n")
        busy = start(job, "--apppot", pair, "true")
        assert (busy.status, "is in use" in busy.complaint) == (125, True)
        process.kill()
        process.wait()
    for _ in range(100):
        done = start(job, "--apppot", pair, "cat", "/tmp/a")
        if "in use" not in done.complaint:
            break
    assert done.text == "a\n", done.complaint


def test_cow_file_of_another_image_is_refused(job: AppPot) -> None:
    assert start(job, "--apppot", f"abc.cow,{image_of(job)}", "true").status == 0
    other = writable(job)
    words = ("run", "--root", "--network", "none", "--write", other, "--", "touch", "/new")
    assert job.call(job.verb(*words)).status == 0
    done = start(job, "--apppot", f"abc.cow,{other}", "true")
    assert done.status == 125
    assert "belongs to another image: base.img" in done.complaint
    with open(job.path("uml.cow"), "wb") as file:
        file.write(b"OOOM" + (3).to_bytes(4, "big") + bytes(24) + b"/images/base.img".ljust(4096))
    refused = start(job, "--apppot", f"uml.cow,{other}", "true")
    assert refused.status == 125
    assert "User-Mode Linux" in refused.complaint
    assert "uml_moo" in refused.complaint


def test_terminal(job: AppPot) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        ["./apppot-start.sh"],
        cwd=job.job,
        env={**job.environment, "TERM": "xterm"},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        start_new_session=True,
    )
    os.close(theirs)
    with stopping(process):
        os.write(ours, b"tty; exit 5\n")
        read_until(ours, b"/dev/pts/")
        assert process.wait(60) == 5
    os.close(ours)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_kill_ends_everything(job: AppPot, number: signal.Signals) -> None:
    process = subprocess.Popen(
        ["./apppot-start.sh", "sh", "-c", "echo up; sleep 1000"],
        cwd=job.job,
        env=job.environment,
        stdout=subprocess.PIPE,
    )
    with stopping(process):
        assert process.stdout
        read_until(process.stdout.fileno(), b"up\n")
        process.send_signal(number)
        assert process.wait(30) in (128 + number, -number)
    job.call(job.verb("prune"))
    job.assert_clean()
