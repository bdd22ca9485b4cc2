"""apppot-snap's archives of changes: made, merged at the start, refused if they are damaged."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.contract import rawdisks
from tests.contract.harness import read_until, stopping
from tests.contract.originals import LONG, image_of, job, put, site, start

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.contract.harness import AppPot


assert job
assert site  # fixtures


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


@pytest.mark.skipif(
    os.getuid() != 0,
    reason="apppot-snap needs root in the machine, which apppot-start gives to root alone",
)
def test_snapshot_of_a_cow_file_that_was_used_before(job: AppPot) -> None:
    pair = f"abc.cow,{image_of(job)}"
    assert start(job, "--apppot", pair, "sh", "-c", "echo more >/data/new").status == 0
    snap = ("sh", "-c", "apppot-snap changes my.changes.tar.gz")
    made = start(job, "--apppot", pair, *snap)
    assert made.status == 0, made.complaint
    done = start(job, "--changes", "my.changes.tar.gz", "cat", "/data/new")
    assert (done.status, done.text) == (0, "more\n"), done.complaint


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


@contextmanager
def _waiting(job: AppPot, image: str, script: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a script as root, and go on when it has said `up`."""
    words = ("run", "--root", "--network", "none", image, "--", "sh", "-c", script)
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        job.verb(*words), cwd=job.job, env=job.environment, stdin=pipe, stdout=pipe
    )
    with stopping(process):
        assert process.stdout
        read_until(process.stdout.fileno(), b"up\n")
        yield process


def test_snap_on_the_host(job: AppPot) -> None:
    script = "rm /old; echo new >/new; echo up; read line; cat /merged"
    with _waiting(job, image_of(job), script) as process:
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
    script = "echo new >/opt/new; echo up; read line"
    with _waiting(job, job.image, script):
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
