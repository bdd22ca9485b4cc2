"""Changes become a layer while they leave the machine; whatever fails there, they are not lost."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from apppot.image import changes, erofs, tarstream
from tests.integration.test_changes_in_machines import apppot, folder, machine, try_apppot

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["folder"]
pytestmark = [
    pytest.mark.skipif(not shutil.which("busybox"), reason="not installed: busybox"),
    pytest.mark.timeout(300),
]
# In each folder the order of names, of marks and of what lies below them is another.
CHANGE = r"""
set -e
mkdir -p /opt/d /opt/.a /opt/d.x; echo 1 >/opt/d/f; echo 2 >/opt/d.x/f; echo 3 >/opt/d-y
ln /opt/d/f /opt/a; ln /opt/d/f /opt/z; ln -s nowhere /opt/l
rm -r /opt/tool/sub; mkdir -p /opt/tool/sub/.b; echo 4 >/opt/tool/sub/.b/f; echo 5 >/opt/tool/sub/z
rm /etc/gone; echo 6 >/etc/.first; echo 7 >/etc/zlast
printf 8 >"/opt/$(printf 'odd\nn\377me')"
dd if=/dev/zero of=/opt/t1 bs=4090 count=1; dd if=/dev/urandom of=/opt/t2 bs=1000 count=333
dd if=/dev/urandom of=/opt/sparse bs=1 count=9 seek=3000000
"""
BROKEN = """#!/bin/sh
case $1 in --help) exec {mkfs} --help ;; esac
if [ -e {folder}/again ] && [ -z "{always}" ]; then exec {mkfs} "$@"; fi
touch {folder}/again
head -c 600 >/dev/null
echo "mkfs.erofs: out of luck" >&2
exit 1
"""


def broken(folder: Path, monkeypatch: pytest.MonkeyPatch, *, always: bool) -> None:
    """Let mkfs.erofs fail once it has begun to read."""
    script = folder / "mkfs"
    values = {"mkfs": erofs.mkfs_program(), "folder": folder, "always": "x" if always else ""}
    script.write_text(BROKEN.format_map(values))
    script.chmod(0o755)
    monkeypatch.setenv("APPPOT_MKFS_EROFS", str(script))


def test_the_layer_is_that_of_the_whole_archive(folder: Path) -> None:
    done = try_apppot(
        *("run", "--network", "none", "--root", "--no-job-dir", "--save", "n:1", "base:1"),
        *("--", "sh", "-c", CHANGE),
    )
    assert done.returncode == 0, done.stderr
    subject = changes.of_image("n:1")
    with changes.archived(subject) as archive, open(os.devnull, "wb") as nowhere:
        found = tarstream.normalise(archive, nowhere)
    assert [layer.content for layer in subject.own] == [found.content]
    assert not [name for name in os.listdir(folder / "store/blobs/sha256") if name[0] == "."]


def test_what_breaks_off_is_done_again(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(folder, monkeypatch, always=False)
    machine("base:1", CHANGE, "--save", "n:1")
    assert (folder / "again").exists()
    assert machine("n:1", "cat /opt/z /opt/tool/sub/z") == "1\n5\n"


def test_what_cannot_be_made_is_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APPPOT_TMPDIR", str(folder))
    broken(folder, monkeypatch, always=True)
    words = ("--network", "none", "--root", "--no-job-dir", "--save", "n:1")
    done = try_apppot("run", *words, "base:1", "--", "sh", "-c", CHANGE)
    assert done.returncode != 0
    assert "out of luck" in done.stderr
    monkeypatch.delenv("APPPOT_MKFS_EROFS")
    command = re.search(r"then: apppot (commit --archive .*)", done.stderr)
    assert command, done.stderr
    apppot(*command[1].split())
    assert machine("n:1", "cat /opt/z /opt/tool/sub/z") == "1\n5\n"


def test_a_layer_without_a_name_is_kept(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody gives another image the name in the meantime."""
    monkeypatch.setenv("APPPOT_TMPDIR", str(folder))
    words = ("--network", "none", "--root", "--job-dir", str(folder), "--save", "n:1")
    script = f"{CHANGE}\ntouch /job/ready; while [ ! -e /job/taken ]; do sleep 0.1; done"
    argv = [sys.executable, "-m", "apppot", "run", *words, "base:1", "--", "sh", "-c", script]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as running:
        while not (folder / "ready").exists():
            time.sleep(0.1)
        apppot("tag", "base:2", "n:1")
        (folder / "taken").touch()
        complaint = running.communicate()[1]
    assert running.returncode != 0
    assert "exists already" in complaint
    command = re.search(r"then: apppot (changes apply .*) n:1", complaint)
    assert command, complaint
    apppot(*command[1].split(), "m:1")
    assert machine("m:1", "cat /opt/z /opt/tool/sub/z") == "1\n5\n"
