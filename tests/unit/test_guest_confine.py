"""The host-side helper that takes away from a program what it does not need."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

GUEST = os.path.join(os.path.dirname(__file__), "..", "..", "guest")

PROBE = r"""
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static int through_memfd(void)
{
    char bytes[65536];
    ssize_t got;
    int self = open("/proc/self/exe", O_RDONLY), copy = memfd_create("copy", 0);
    while ((got = read(self, bytes, sizeof bytes)) > 0)
        if (write(copy, bytes, (size_t)got) != got)
            return 1;
    fexecve(copy, (char *[]){"probe", "ok", NULL}, (char *[]){NULL});
    return errno;
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "ok";
    const char *path = argc > 2 ? argv[2] : "";
    errno = 0;
    if (strcmp(what, "ok") == 0)
        puts("ok");
    else if (strcmp(what, "read") == 0)
        open(path, O_RDONLY);
    else if (strcmp(what, "write") == 0)
        open(path, O_WRONLY);
    else if (strcmp(what, "make") == 0)
        open(path, O_WRONLY | O_CREAT | O_EXCL, 0666);
    else if (strcmp(what, "list") == 0)
        open(path, O_RDONLY | O_DIRECTORY);
    else if (strcmp(what, "again") == 0)
        execl("/proc/self/exe", "probe", "ok", NULL);
    else if (strcmp(what, "execute") == 0)
        execl(path, path, NULL);
    else if (strcmp(what, "memfd") == 0)
        return through_memfd();
    else if (strcmp(what, "sleep") == 0)
        return puts("up"), fflush(stdout), (int)sleep(100);
    else if (strcmp(what, "where") == 0)
        puts(getcwd(NULL, 0));
    else if (strcmp(what, "persona") == 0)
        printf("%d\n", (personality(0xffffffff) & ADDR_NO_RANDOMIZE) != 0);
    else if (strcmp(what, "privileges") == 0)
        printf("%d\n", prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0));
    else if (strcmp(what, "kill") == 0)
        kill(atoi(path), 0);
    else if (strcmp(what, "connect") == 0) {
        struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(9)};
        to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        connect(socket(AF_INET, SOCK_STREAM, 0), (struct sockaddr *)&to, sizeof to);
    }
    return errno;
}
"""


@pytest.fixture(scope="session")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the helper, and a program that reports with its status what it was refused."""
    compiler = shutil.which("musl-gcc") or shutil.which("gcc")
    if not compiler or not shutil.which("make"):
        pytest.skip("no C compiler and make here, so the helper cannot be built")
    out = tmp_path_factory.mktemp("confine")
    make = ["make", "-s", "-C", GUEST, f"CC={compiler}", f"OUT={out}", f"{out}/confine"]
    subprocess.run(make, check=True)
    (out / "probe.c").write_text(PROBE)
    source: list[str | Path] = [
        compiler,
        "-D_GNU_SOURCE",
        "-static",
        "-o",
        out / "probe",
        out / "probe.c",
    ]
    subprocess.run(source, check=True)
    return out


def confine(
    tools: Path, *words: str | Path, pass_fds: tuple[int, ...] = ()
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [tools / "confine", *words],
        capture_output=True,
        text=True,
        check=False,
        pass_fds=pass_fds,
        timeout=30,
    )


@pytest.fixture
def landlock(tools: Path) -> int:
    version = int(confine(tools, "--probe", "landlock").stdout)
    if not version:
        pytest.skip("this kernel offers no Landlock")
    return version


def test_program_runs_with_its_arguments_and_status(tools: Path) -> None:
    done = confine(tools, "--", tools / "probe", "ok")
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["--"],
        ["--unknown", "--", "/bin/true"],
        ["--unknown", "x", "--", "/bin/true"],
        ["--parent"],
        ["--parent", "x", "--", "/bin/true"],
        ["--cpus", "0-", "--", "/bin/true"],
        ["--cpus", "3-1", "--", "/bin/true"],
        ["--cpus", "99999999", "--", "/bin/true"],
        ["--ro-fd", "-1", "--", "/bin/true"],
        ["--chdir-fd", "99", "--", "/bin/true"],
        ["--nice", "99", "--", "/bin/true"],
        ["--landlock", "--ro-fd", "99", "--", "/bin/true"],
        ["--probe", "nonsense"],
        ["--", "/no/such/program"],
        ["--", "/etc/passwd"],
        ["--", "/etc"],
    ],
)
def test_errors_are_one_line_and_status_125(tools: Path, words: list[str]) -> None:
    done = confine(tools, *words)
    assert done.returncode == 125
    assert done.stderr.startswith("confine: ")
    assert done.stderr.count("\n") == 1


def test_process_attributes(tools: Path, tmp_path: Path) -> None:
    folder = os.open(tmp_path, os.O_RDONLY)
    cpu = min(os.sched_getaffinity(0))
    script = (
        "pwd; umask; ulimit -c; ulimit -n;"
        " grep -E 'Cpus_allowed_list|NoNewPrivs' /proc/self/status;"
        " nice; cat /proc/self/oom_score_adj"
    )
    done = confine(
        tools, "--chdir-fd", str(folder), "--cpus", str(cpu), "--oom-score", "500", "--nice", "5",
        "--", "/bin/sh", "-c", script, pass_fds=(folder,),
    )  # fmt: skip
    os.close(folder)
    assert done.stderr == ""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    expected = [str(tmp_path), "0000", "0", str(hard), "NoNewPrivs:\t1"]
    assert done.stdout.splitlines()[:5] == expected
    assert done.stdout.splitlines()[5:] == [f"Cpus_allowed_list:\t{cpu}", "5", "500"]


def test_address_randomisation_can_be_switched_off(tools: Path) -> None:
    assert confine(tools, "--", tools / "probe", "persona").stdout == "0\n"
    assert confine(tools, "--no-aslr", "--", tools / "probe", "persona").stdout == "1\n"


def test_descriptors_without_close_on_exec_are_inherited(tools: Path) -> None:
    read, write = os.pipe()
    done = confine(tools, "--", "/bin/bash", "-c", f"echo through >&{write}", pass_fds=(write,))
    os.close(write)
    assert done.returncode == 0
    assert os.read(read, 100) == b"through\n"
    os.close(read)


def test_another_parent_means_the_launcher_is_dead(tools: Path) -> None:
    done = confine(tools, "--parent", "1", "--", tools / "probe", "ok")
    assert (done.returncode, done.stdout) == (125, "")
    assert confine(tools, "--parent", str(os.getpid()), "--", tools / "probe").returncode == 0


def test_program_dies_with_the_launcher(tools: Path) -> None:
    launcher = (
        "import os, subprocess, sys\n"
        "p = subprocess.Popen([sys.argv[1], '--parent', str(os.getpid()), '--landlock', '--',"
        " sys.argv[2], 'sleep'], stdout=subprocess.PIPE)\n"
        "p.stdout.readline()\n"
        "print(p.pid, flush=True)\n"
        "sys.stdin.read()\n"
    )
    words: list[str | Path] = [sys.executable, "-c", launcher, tools / "confine", tools / "probe"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        pid = int(parent.stdout.readline())
        parent.send_signal(signal.SIGKILL)
        parent.wait()
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except FileNotFoundError:
            return
        if state == "Z":
            return
        time.sleep(0.02)
    raise AssertionError("the program outlived its launcher")


@pytest.mark.usefixtures("landlock")
class TestLandlock:
    def refused(self, tools: Path, *words: str | Path, fds: tuple[int, ...] = ()) -> str:
        """Return the name of the error that the probe met, '' if none."""
        done = confine(tools, "--landlock=require", *words, pass_fds=fds)
        assert not done.stderr, done.stderr
        return "" if done.returncode == 0 else os.strerror(done.returncode)

    def test_nothing_but_itself(self, tools: Path, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("x")
        probe = tools / "probe"
        assert self.refused(tools, "--", probe, "ok") == ""
        for what, path in (
            ("read", tmp_path / "file"), ("write", tmp_path / "file"), ("make", tmp_path / "new"),
            ("list", tmp_path), ("read", Path("/etc/passwd")), ("read", Path("/proc/version")),
            ("execute", tools / "confine"),
        ):  # fmt: skip
            assert self.refused(tools, "--", probe, what, path) == "Permission denied", what

    def test_what_user_mode_linux_does_to_itself(self, tools: Path) -> None:
        for what in ("again", "memfd"):
            done = confine(tools, "--landlock=require", "--", tools / "probe", what)
            assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")

    def test_rules_by_path(self, tools: Path, tmp_path: Path) -> None:
        for name in ("ro", "rw"):
            (tmp_path / name).mkdir()
            (tmp_path / name / "file").write_text("x")
        rules = ("--ro", tmp_path / "ro", "--rw", tmp_path / "rw", "--ro", tmp_path / "missing")
        for what, path, allowed in (
            ("read", "ro/file", True), ("list", "ro", True), ("write", "ro/file", False),
            ("make", "ro/new", False), ("read", "rw/file", True), ("write", "rw/file", True),
            ("make", "rw/new", True), ("list", "rw", True), ("list", ".", False),
            ("read", "rw/../ro/file", True), ("read", "rw/../../../../etc/passwd", False),
        ):  # fmt: skip
            words = (*rules, "--", tools / "probe", what, tmp_path / path)
            assert (self.refused(tools, *words) == "") is allowed, (what, path)

    def test_rules_by_descriptor(self, tools: Path, tmp_path: Path) -> None:
        target = tmp_path / "file"
        target.write_text("x")
        other = tmp_path / "other"
        other.write_text("x")
        for option, flags, writable in (
            ("--ro-fd", os.O_RDONLY, False), ("--rw-fd", os.O_RDONLY, True),
            ("--ro-fd", os.O_PATH, False), ("--rw-fd", os.O_RDWR, True),
        ):  # fmt: skip
            fd = os.open(target, flags)
            rule = (option, str(fd), "--", tools / "probe")
            assert self.refused(tools, *rule, "read", target, fds=(fd,)) == ""
            assert (self.refused(tools, *rule, "write", target, fds=(fd,)) == "") is writable
            again = f"/proc/self/fd/{fd}"
            assert self.refused(tools, *rule, "read", again, fds=(fd,)) == ""
            assert self.refused(tools, *rule, "read", other, fds=(fd,)) == "Permission denied"
            os.close(fd)
        folder = os.open(tmp_path, os.O_RDONLY)
        words = ("--rw-fd", str(folder), "--", tools / "probe", "make", tmp_path / "new")
        assert self.refused(tools, *words, fds=(folder,)) == ""
        os.close(folder)

    def test_a_folder_that_is_only_listed(self, tools: Path, tmp_path: Path) -> None:
        given, other = tmp_path / "given", tmp_path / "other"
        given.write_text("x")
        other.write_text("x")
        fds = (os.open(tmp_path, os.O_PATH), os.open(given, os.O_PATH))
        try:
            words = ("--list-fd", str(fds[0]), "--rw-fd", str(fds[1]))

            def errno_of(*what: str | Path) -> str:
                return self.refused(tools, *words, "--", tools / "probe", *what, fds=fds)

            assert errno_of("list", tmp_path) == ""
            for way in ("read", "write"):
                assert errno_of(way, given) == ""
                assert errno_of(way, other) != ""
            assert errno_of("make", tmp_path / "new") != ""
        finally:
            for fd in fds:
                os.close(fd)

    def test_descriptors_of_no_folder_need_no_rule(self, tools: Path) -> None:
        read, write = os.pipe()
        rules = ("--ro-fd", str(read), "--rw-fd", str(write), "--", tools / "probe", "ok")
        assert self.refused(tools, *rules, fds=(read, write)) == ""
        os.close(read)
        os.close(write)

    def test_execution_is_a_right_of_its_own(self, tools: Path) -> None:
        words = ("--", tools / "probe", "execute", tools / "probe.c")
        assert self.refused(tools, "--rw", tools, *words) == "Permission denied"
        script = ("--", "/bin/sh", "-c", "cat /etc/hostname")
        rules = ("--rx", "/usr", "--rx", "/lib", "--rx", "/lib64", "--rx", "/bin", "--ro", "/etc")
        done = confine(tools, "--landlock=require", *rules, *script)
        assert done.returncode == 0, done.stderr

    def test_a_script_is_executed_as_a_program_is(self, tools: Path, tmp_path: Path) -> None:
        script = tmp_path / "script"
        script.write_text("#!/bin/sh\necho ran $1\n")
        script.chmod(0o755)
        rules = ("--rx", "/usr", "--rx", "/bin", "--rx", "/lib", "--rx", "/lib64")
        done = confine(tools, "--landlock=require", *rules, "--", script, "it")
        assert (done.returncode, done.stdout, done.stderr) == (0, "ran it\n", "")

    def test_tcp_is_cut_only_if_asked(self, tools: Path, landlock: int) -> None:
        probe = ("--", tools / "probe", "connect")
        assert self.refused(tools, *probe) == "Connection refused"
        if landlock < 4:
            pytest.skip("this kernel's Landlock knows no TCP rules")
        assert self.refused(tools, "--no-tcp", *probe) == "Permission denied"

    def test_signals_stay_inside(self, tools: Path, landlock: int) -> None:
        if landlock < 6:
            pytest.skip("this kernel's Landlock does not scope signals")
        words = ("--", tools / "probe", "kill", str(os.getpid()))
        assert self.refused(tools, *words) == "Operation not permitted"


def test_same_bytes_each_time(tools: Path, tmp_path: Path) -> None:
    compiler = shutil.which("musl-gcc")
    if not compiler:
        pytest.skip("reproducible builds are promised with musl-gcc, which is not here")
    copy = tmp_path / "elsewhere"
    shutil.copytree(GUEST, copy, ignore=shutil.ignore_patterns("build"))
    built = []
    for number, source in enumerate((GUEST, copy)):
        out = tmp_path / f"out{number}"
        subprocess.run(
            ["make", "-s", "-C", str(source), f"CC={compiler}", f"OUT={out}"], check=True
        )
        built.append([(out / name).read_bytes() for name in ("agent", "confine")])
    assert built[0] == built[1]
    assert all(len(raw) < 200_000 for raw in built[0])
