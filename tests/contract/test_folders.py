"""Contract: the guest sees the folders that were named, with the caller's ownership."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.contract.harness import until

if TYPE_CHECKING:
    from tests.contract.harness import AppPot

pytestmark = pytest.mark.sample

NAMES = ["with blanks in it", "new\nline", "größe-日本語", "-dash", "a'b\"c$d", b"\xff\xfe"]


def test_files_in_the_job_folder_are_the_callers(apppot: AppPot) -> None:
    done = apppot.sh("id -u; id -g; echo text >/job/made; mkdir /job/folder; pwd; stat -c %u:%g .")
    uid, gid = os.getuid(), os.getgid()
    assert done.text.split() == [str(uid), str(gid), "/job", f"{uid}:{gid}"]
    for name in ("made", "folder"):
        found = os.stat(apppot.path(name))
        assert (found.st_uid, found.st_gid) == (uid, gid)
    with open(apppot.path("made"), encoding="ascii") as file:
        assert file.read() == "text\n"


def test_modes_links_and_renames_reach_the_host(apppot: AppPot) -> None:
    done = apppot.sh(
        "umask; echo a >a; chmod 751 a; ln -s a link; ln a hard; mkdir d; mv a d/b; cat hard;"
        " touch -d @1000000000 hard; stat -c %Y hard"
    )
    assert (done.stdout, done.stderr) == (b"0022\na\n1000000000\n", b"")
    assert os.stat(apppot.path("d", "b")).st_mode & 0o777 == 0o751
    assert os.readlink(apppot.path("link")) == "a"
    assert os.path.samefile(apppot.path("hard"), apppot.path("d", "b"))
    assert os.stat(apppot.path("hard")).st_mtime == 1_000_000_000


@pytest.mark.parametrize("name", NAMES)
def test_any_name_of_a_folder(apppot: AppPot, name: str | bytes) -> None:
    raw = os.fsencode(name)
    folder = os.path.join(os.fsencode(apppot.folder), raw)
    os.mkdir(folder)
    with open(os.path.join(folder, b"in \xf0\x9f\x9a\x80"), "wb") as file:
        file.write(b"content")
    done = apppot.sh("cat *; echo made >'new file'; pwd", options=(b"--job-dir=" + folder,))
    assert (done.status, done.stdout, done.stderr) == (0, b"content/job\n", b"")
    with open(os.path.join(folder, b"new file"), "rb") as file:
        assert file.read() == b"made\n"
    bound = apppot.sh('cd "$0" && cat in*', options=(b"--bind", folder))
    assert bound.status == 2  # $0 is not the folder: the next line names it
    words = ("sh", "-c", 'cd "$1" && pwd && cat in*', "sh", folder)
    bound = apppot.run(*words, options=(b"--bind", folder))
    assert (bound.status, bound.stdout) == (0, folder + b"\ncontent")


def test_bind_of_a_file_and_of_a_folder_read_only(apppot: AppPot) -> None:
    path = os.path.join(apppot.folder, "data")
    os.mkdir(path)
    with open(os.path.join(path, "file"), "w", encoding="ascii") as file:
        file.write("original\n")
    script = (
        "cat /data/file /single; echo x >/data/file; echo x >/data/new; echo x >/single;"
        " rm /data/file; chmod 777 /data; mount -o remount,rw /data; echo x >/data/file;"
        " mount -o remount,rw /single; echo x >/single; true"
    )
    options = ("--root", "--bind", f"{path}:/data:ro", "--bind", f"{path}/file:/single:ro")
    done = apppot.sh(script, options=options)
    assert (done.status, done.stdout) == (0, b"original\noriginal\n")
    assert os.listdir(path) == ["file"]
    with open(os.path.join(path, "file"), encoding="ascii") as file:
        assert file.read() == "original\n"
    assert os.stat(path).st_mode & 0o777 == 0o755


def test_a_writable_bind_of_a_file(apppot: AppPot) -> None:
    path = os.path.join(apppot.folder, "file")
    with open(path, "w", encoding="ascii") as file:
        file.write("before\n")
    done = apppot.sh("cat /x/y; echo after >/x/y", options=("--bind", f"{path}:/x/y"))
    assert (done.status, done.stdout) == (0, b"before\n")
    with open(path, encoding="ascii") as file:
        assert file.read() == "after\n"


def test_no_job_dir(apppot: AppPot) -> None:
    done = apppot.sh(
        "test ! -e /job && echo none; mount | grep -cE 'hostfs|9p|virtiofs'",
        options=("--no-job-dir",),
    )
    assert done.stdout == b"none\n0\n"


def test_workdir_and_hostname(apppot: AppPot) -> None:
    done = apppot.sh("pwd; hostname", options=("--workdir", "/usr/share", "--hostname", "node-7.x"))
    assert done.text.split() == ["/usr/share", "node-7.x"]


def test_users(apppot: AppPot) -> None:
    root = apppot.sh("id -u; id -g; echo $HOME", options=("--root",))
    assert root.text.split() == ["0", "0", "/root"]
    numbers = apppot.sh("id -u; id -g; id -un; cd; pwd", options=("--user", "1234:4321"))
    assert numbers.text.split() == ["1234", "4321", "user1234", "/home/user1234"]
    name = apppot.sh("id -un; echo $USER $LOGNAME $HOME", options=("--user", "daemon"))
    assert name.text.split() == ["daemon", "daemon", "daemon", "/usr/sbin"]


def test_a_user_becomes_root_by_sudo(apppot: AppPot) -> None:
    done = apppot.sh("command -v sudo >/dev/null && sudo -n id -u", options=("--user", "1234:4321"))
    assert (done.status, done.text) == (0, "0\n"), done


def test_the_scratch_disk_is_sparse_and_has_no_name(apppot: AppPot) -> None:
    script = "echo up; df -B1M --output=size / | tail -1; read line"
    options = ("--network", "none", "--scratch", "20G")
    with apppot.start(("sh", "-c", script), options=options, stdin=subprocess.PIPE) as running:
        running.expect(b"up\n")
        size = int(running.expect(b"\n"))
        assert 19_000 < size <= 20_480
        assert os.listdir(apppot.scratch) == []
        disks = _open_files(running.kernel(), apppot.scratch)
        assert disks
        assert all(found.st_blocks * 512 < 4 << 20 for found in disks)
        running.process.stdin.close()  # type: ignore[union-attr]
        running.process.stdin = None
        assert until(lambda: running.process.poll() is not None)


def _open_files(pid: int, folder: str) -> list[os.stat_result]:
    """Return the state of a process's open files that lie (or lay) in a folder."""
    found = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        path = f"/proc/{pid}/fd/{name}"
        if os.readlink(path).startswith(folder):
            found.append(os.stat(path))
    return found
