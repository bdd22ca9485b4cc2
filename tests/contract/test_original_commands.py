"""apppot-start and apppot-snap do what users of the original relied on.

The original's source told what that is: options, files, payloads, archives of changes.
"""

from __future__ import annotations

import os
import pty
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from typing import TYPE_CHECKING

import pytest

from tests.contract import rawdisks
from tests.contract.harness import read_until, stopping

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.contract.harness import AppPot, Ended

SCRIPT = f"""#!/bin/sh
exec {sys.executable} -m apppot.legacy.start "$@"
"""
LONG = "long" * 40
# Debian's images know these two numbers; a machine gives any other caller the name of the original.
WHO = {0: "root", 65534: "nobody"}.get(os.getuid(), "user")


@pytest.fixture(scope="module")
def site(shared_apppot: AppPot) -> AppPot:
    """Give a job folder with ./apppot-start.sh, and a read-only disk image."""
    root = rawdisks.make_root(shared_apppot, os.path.join(shared_apppot.folder, "root"))
    with open(os.path.join(root, "old"), "w", encoding="utf-8") as file:
        file.write("of the base\n")
    os.makedirs(os.path.join(root, "data"))
    for name in ("keep", "drop"):
        with open(os.path.join(root, "data", name), "w", encoding="utf-8") as file:
            file.write(name)
    image = rawdisks.mke2fs(root, os.path.join(shared_apppot.folder, "base.img"))
    os.chmod(image, 0o444)
    return shared_apppot


@pytest.fixture
def job(site: AppPot) -> AppPot:
    """Give a fresh job folder."""
    folder = os.path.join(site.folder, f"job{time.monotonic_ns()}")
    os.mkdir(folder)
    with open(os.path.join(folder, "apppot-start.sh"), "w", encoding="utf-8") as file:
        file.write(SCRIPT)
        os.fchmod(file.fileno(), 0o755)
    return site.having(cwd=folder, APPPOT_IMAGE=image_of(site))


def image_of(site: AppPot) -> str:
    return os.path.join(site.folder, "base.img")


def start(job: AppPot, *words: str, stdin: bytes = b"") -> Ended:
    return job.call(["./apppot-start.sh", *words], stdin=stdin)


def writable(job: AppPot) -> str:
    path = shutil.copy(image_of(job), job.path("own.img"))
    os.chmod(path, 0o644)
    return path


def put(job: AppPot, name: str, text: str, mode: int = 0o755) -> None:
    with open(job.path(name), "w", encoding="utf-8") as file:
        file.write(text)
        os.fchmod(file.fileno(), mode)


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
    assert " VMMAD_AUTH='s3cret token' b=\"x\" " in done.text
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


def snapshot(job: AppPot, script: str) -> str:
    """Change something as root in a machine with apppot-snap, and archive it."""
    shutil.copy(script_of_snap(), job.path("apppot-snap"))
    words = ("run", "--root", "--network", "none", "--job-dir", ".", image_of(job), "--")
    whole = f"{script}; sh /job/apppot-snap -v changes /job/my.changes.tar.gz"
    done = job.call(job.verb(*words, "sh", "-c", whole))
    assert done.status == 0, done.complaint
    return "my.changes.tar.gz"


def script_of_snap() -> str:
    from apppot.legacy import start as module

    return os.path.join(os.path.dirname(module.__file__), "apppot-snap.sh")


def test_snapshot_is_merged_at_the_next_start(job: AppPot) -> None:
    name = snapshot(job, "rm /data/drop; echo more >/data/new; mkdir -p /opt/a; ln -s b /opt/a/l")
    with tarfile.open(job.path(name), "r:gz") as archive:
        kinds = {member.name: member.type for member in archive}
    assert kinds["data"] == b"D"
    assert set(kinds) - {"tmp"} == {".", "data", "data/new", "opt", "opt/a", "opt/a/l"}
    done = start(job, "--changes", name, "sh", "-c", "ls /data; cat /data/new; readlink /opt/a/l")
    assert done.text == "keep\nnew\nmore\nb\n", done.complaint
    assert start(job, "ls", "/data").text == "drop\nkeep\n"


def gnu_archive(job: AppPot, folder: str, path: str, *options: str) -> None:
    """Archive what has changed in a folder since its state in FOLDER.snar, as the original did."""
    subprocess.run(
        [
            *("tar", "--create", "--gzip", f"--file={path}", f"--listed-incremental={folder}.snar"),
            *("--no-check-device", *options, f"--directory={folder}", "."),
        ],
        check=True,
        cwd=job.job,
    )


@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_archive_of_gnu_tar(job: AppPot, form: str) -> None:
    """Deletions are applied; what the base has gained since is not deleted (defect 4)."""
    tree, base = _root(job, "tree"), _root(job, "newer")  # what is nowhere in it was deleted
    for folder in (tree, base):
        for name in ("same", "gone", "sub/deep", "moved/file"):
            _write(os.path.join(folder, name), name)
    gnu_archive(job, tree, os.devnull)
    time.sleep(1.1)
    os.unlink(os.path.join(tree, "gone"))
    shutil.rmtree(os.path.join(tree, "sub"))
    os.rename(os.path.join(tree, "moved"), os.path.join(tree, "renamed"))
    _write(os.path.join(tree, LONG), "long name")
    _write(os.path.join(tree, "sparse"), "")
    os.truncate(os.path.join(tree, "sparse"), 5 << 20)
    gnu_archive(job, tree, "old.changes.tar.gz", f"--format={form}", "--sparse")
    time.sleep(1.1)
    _write(os.path.join(base, "gained"), "new")
    os.utime(os.path.join(base, "gained"), (10**9, 10**9))  # an old time does not make it old
    rawdisks.mke2fs(base, job.path("newer.img"))
    script = "ls -d /same /gone /sub /moved /renamed/file /gained /long*; stat -c %s /sparse"
    words = ("--apppot", "newer.img", "--changes", "old.changes.tar.gz", "sh", "-c", script)
    done = start(job, *words)
    expected = ["/gained", f"/{LONG}", "/renamed/file", "/same", "5242880"]
    assert sorted(done.text.split()) == expected, done.complaint


def _write(path: str, text: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def _root(job: AppPot, name: str) -> str:
    """Return a root file system of the test's own."""
    return shutil.copytree(
        os.path.join(job.folder, "root"), job.path(name), symlinks=True, copy_function=_link
    )


def _link(source: str, target: str) -> None:
    os.link(source, target, follow_symlinks=False)


def test_damaged_archives(job: AppPot) -> None:
    name = snapshot(job, "head -c 3000000 /dev/urandom >/big")
    with open(job.path(name), "rb") as file:
        data = file.read()
    cases: Sequence[bytes] = (data[: len(data) // 2], b"no archive", data[:1000] + data[2000:])
    for case in cases:
        with open(job.path("bad.tar.gz"), "wb") as file:
            file.write(case)
        done = start(job, "--changes", "bad.tar.gz", "echo", "ran")
        assert (done.status, done.text) == (125, "")
        assert "bad.tar.gz" in done.complaint
        assert "Traceback" not in done.complaint


def test_snap_on_the_host(job: AppPot) -> None:
    words = ("run", "--root", "--network", "none", image_of(job), "--", "sh", "-c")
    script = "rm /old; echo new >/new; echo up; read line; cat /merged"
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        job.verb(*words, script), cwd=job.job, env=job.environment, stdin=pipe, stdout=pipe
    )
    with stopping(process):
        assert process.stdout
        read_until(process.stdout.fileno(), b"up\n")
        snap = (sys.executable, "-m", "apppot.legacy.snap")
        listed = job.call([*snap, "--dry-run", "changes", "s.changes.tar.gz"])
        assert "new" in listed.text.split(), listed.complaint
        assert not os.path.exists(job.path("s.changes.tar.gz"))
        assert job.call([*snap, "changes", "s.changes.tar.gz"]).status == 0
        put(job, "merged", "merged\n")
        subprocess.run(["tar", "-czf", "m.tar.gz", "merged"], cwd=job.job, check=True)
        merged = job.call([*snap, "merge", "m.tar.gz"])
        assert merged.status == 0, merged.complaint
        out, _ = process.communicate(b"\n")
        assert out == b"merged\n"
    script = "ls /old; cat /new"
    assert start(job, "--changes", "s.changes.tar.gz", "sh", "-c", script).text == "new\n"


def test_changes_files(job: AppPot) -> None:
    words = ("run", "--root", "--network", "none", job.image, "--", "sh", "-c")
    script = "echo new >/opt/new; echo up; read line"
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        job.verb(*words, script), cwd=job.job, env=job.environment, stdin=pipe, stdout=pipe
    )
    with stopping(process):
        assert process.stdout
        read_until(process.stdout.fileno(), b"up\n")
        (machine,) = job.machines()
        saved = job.call(job.verb("changes", "save", "my.changes", str(machine["id"])))
        assert saved.status == 0, saved.complaint
    for named in (("--changes", "my.changes", "--apppot", job.image), ("--apppot", "my.changes")):
        done = start(job, *named, "cat", "/opt/new")
        assert (done.status, done.text) == (0, "new\n"), done.complaint
    assert start(job, "--apppot", "c.cow,my.changes", "rm", "/opt/new").status in (0, 1)
    done = start(job, "--apppot", f"c.cow,{job.image}", "true")
    assert "belongs to another image" in done.complaint


def test_script_in_the_guest_leaves_out_what_saving_leaves_out() -> None:
    from apppot.image import exclude

    with open(script_of_snap(), encoding="utf-8") as file:
        text = file.read()
    listed = text.partition("excludes() {\n    cat <<'END'\n")[2].partition("\nEND\n")[0]
    assert tuple(listed.split("\n")) == tuple(p for _, group in exclude.GROUPS for p in group)
