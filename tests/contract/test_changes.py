"""Changes leave one store as a file and are used in another; a base is never written."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from tests.contract.harness import PATIENCE

if TYPE_CHECKING:
    from tests.contract.harness import AppPot, Ended, Word

# Every kind of thing that a layer must carry, made as root in a machine.
MAKE = r"""
set -e
mkdir -p /opt/t/deep /opt/gone
echo new > /opt/t/new; ln /opt/t/new /opt/t/hard; ln -s new /opt/t/soft
mknod /opt/t/null c 1 3; mkfifo /opt/t/pipe
truncate -s 5M /opt/t/sparse; echo end >> /opt/t/sparse
printf x > "/opt/t/$(printf 'odd \n\377 name')"
cp /bin/true /opt/t/suid; chmod 4755 /opt/t/suid; chown 1234:2345 /opt/t/deep
rm /etc/issue; rm -r /usr/share/bug; mkdir /usr/share/bug; echo only > /usr/share/bug/only
echo '# changed' >> /etc/profile
echo junk > /var/log/junk.log; echo junk > /tmp/junk
"""
LOOK = r"""
cd /opt/t; cat new hard soft; [ new -ef hard ] && echo same
stat -c '%n %t:%T %F' null pipe; stat -c '%s' sparse; stat -c '%a' suid; stat -c '%u:%g' deep
ls | od -c | head -20
ls /usr/share/bug; [ -e /etc/issue ] || echo deleted; tail -1 /etc/profile
ls /var/log/junk.log /tmp/junk 2>&1
"""
EXPECTED_END = "only\ndeleted\n# changed\n"


def at(apppot: AppPot, name: str) -> AppPot:
    """Return the command line with a store of its own before the usual ones."""
    return apppot.having(
        APPPOT_STORE=f"{apppot.folder}/{name}:{apppot.environment.get('APPPOT_STORE', '')}"
    )


def call(apppot: AppPot, *words: Word) -> Ended:
    return apppot.call(apppot.verb(*words), timeout=2 * PATIENCE)


@pytest.fixture(scope="module")
def saved(shared_apppot: AppPot) -> tuple[AppPot, str]:
    """Give a command line, and a changes file that it has made."""
    here = at(shared_apppot, "first")
    before = _digests(here)
    made = here.sh(MAKE, options=("--root", "--save", "t:1"), timeout=2 * PATIENCE)
    assert made.status == 0, made.complaint
    file = os.path.join(here.folder, "t.changes")
    done = call(here, "changes", "save", file, "t:1")
    assert done.status == 0, done.complaint
    assert os.path.getsize(file) < 100_000
    assert _digests(here) == before  # a base is never written
    return here, file


def _digests(apppot: AppPot) -> list[str]:
    found = []
    image = json.loads(call(apppot, "inspect", apppot.image).stdout)
    for layer in image["layers"]:
        with open(layer["path"], "rb") as file:
            found.append(hashlib.file_digest(file, "sha256").hexdigest())
    return found


def test_changes_are_used_in_another_store(saved: tuple[AppPot, str]) -> None:
    here, file = saved
    direct = here.call(
        here.verb("run", "--network", "none", "--root", "t:1", "--", "sh", "-c", LOOK)
    )
    elsewhere = at(here, "second").sh(LOOK, options=("--root", "--changes", file))
    assert elsewhere.stdout == direct.stdout
    assert EXPECTED_END in elsewhere.text
    assert "same" in elsewhere.text
    assert "junk.log: No such file" not in elsewhere.text.replace("cannot access '/var/log/", "")


def test_show_lists_them(saved: tuple[AppPot, str]) -> None:
    here, file = saved
    done = call(at(here, "second"), "changes", "show", "--json", file)
    assert done.status == 0, done.complaint
    shown = json.loads(done.stdout)
    what = {entry["path"]: entry["change"] for entry in shown["changes"]}
    assert what["opt/t/new"] == "added"
    assert what["etc/profile"] == "changed"
    assert what["etc/issue"] == "deleted"
    assert what["usr/share/bug/only"] == "added"
    assert not {"tmp/junk", "var/log/junk.log", "etc/hosts", "etc/passwd"} & set(what)
    assert shown["base"]["name"] == here.image


def test_several_are_stacked_and_applied(saved: tuple[AppPot, str]) -> None:
    here, file = saved
    there = at(here, "third")
    more = there.sh(
        "rm /opt/t/new; echo 2 > /opt/second",
        options=("--root", "--changes", file, "--save", "t:2"),
        timeout=2 * PATIENCE,
    )
    assert more.status == 0, more.complaint
    second = os.path.join(here.folder, "second.changes")
    done = call(there, "changes", "save", second, "t:2")
    assert done.status == 0, done.complaint
    look = "cat /opt/second /opt/t/hard; ls /opt/t/new 2>&1; cat /usr/share/bug/only"
    both = at(here, "fourth").sh(look, options=("--changes", file, "--changes", second))
    assert both.text.splitlines()[:2] == ["2", "new"], both
    assert "No such file" in both.text
    wrong = at(here, "fourth").sh(look, options=("--changes", second))
    assert wrong.status == 125
    assert wrong.complaint.count("sha256:") == 2
    applied = call(at(here, "fourth"), "changes", "apply", file, here.image, "t:9")
    assert applied.status == 0, applied.complaint
    fourth = at(here, "fourth")
    run = fourth.call(fourth.verb("run", "--network", "none", "t:9", "--", "cat", "/opt/t/new"))
    assert run.text == "new\n", run.complaint


def _outside(words: list[str], where: dict[str, str]) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        words, capture_output=True, env=where, cwd="/", timeout=PATIENCE, check=False
    )


def test_a_bundle_runs_alone(saved: tuple[AppPot, str]) -> None:
    here, _ = saved
    box = os.path.join(here.folder, "box")
    done = call(here, "bundle", "--kit", "-o", box, "t:1")
    assert done.status == 0, done.complaint
    where = {"PATH": "/usr/local/bin:/usr/bin:/bin", "APPPOT_CACHE": f"{here.folder}/cache"}
    words = [box, "--network", "none", "--no-job-dir", "--", "sh", "-c", "cat /opt/t/new; exit 7"]
    for _ in range(2):
        ran = _outside(words, where)
        assert (ran.returncode, ran.stdout) == (7, b"new\n"), ran.stderr
    os.chmod(box, 0o644)  # as on a file system without execution
    ran = _outside([sys.executable, *words], where)
    assert (ran.returncode, ran.stdout) == (7, b"new\n"), ran.stderr
    os.chmod(box, 0o755)
    checked = _outside([box, "--apppot-verify"], where)
    assert checked.returncode == 0, checked.stderr
    size = os.path.getsize(box)
    for cut in (size - 1, size // 2, 9000, 5000):
        os.truncate(box, cut)
        ran = _outside(words, where)
        assert ran.returncode == 125
        assert b"damaged" in ran.stderr
        assert b"Traceback" not in ran.stderr
    bare = os.path.join(here.folder, "bare")
    assert call(here, "bundle", "--without-base", "-o", bare, "t:1").status == 0
    assert os.path.getsize(bare) < 20 << 20
    nowhere = {**here.environment, **where, "APPPOT_STORE": f"{here.folder}/none"}
    ran = _outside([bare, "true"], nowhere)
    assert ran.returncode == 125
    assert here.image.encode() in ran.stderr


def _methods(path: str) -> int:
    """Return the bits of an EROFS superblock that tell how files are compressed."""
    with open(path, "rb") as file:
        file.seek(1024 + 84)
        return int.from_bytes(file.read(2), "little")


def test_files_made_with_lzma_are_used_as_others(saved: tuple[AppPot, str]) -> None:
    """Every verb that takes a changes file, or an image that was made of one, takes these."""
    here, usual = saved
    file = os.path.join(here.folder, "lzma.changes")
    done = call(here, "changes", "save", "--compress", "lzma", file, "t:1")
    assert done.status == 0, done.complaint
    there = at(here, "lzma")
    direct = there.sh(LOOK, options=("--root", "--changes", file))
    assert (
        direct.stdout == at(here, "second").sh(LOOK, options=("--root", "--changes", usual)).stdout
    )
    assert EXPECTED_END in direct.text
    listed = [call(there, "changes", "show", each) for each in (file, usual)]
    assert listed[0].stdout == listed[1].stdout != b""
    applied = call(there, "changes", "apply", file, here.image, "t:lzma")
    assert applied.status == 0, applied.complaint
    run = there.call(there.verb("run", "--network", "none", "t:lzma", "--", "cat", "/opt/t/new"))
    assert run.text == "new\n", run.complaint
    checked = call(there, "fsck")
    assert checked.status == 0, checked.complaint
    archive = os.path.join(here.folder, "lzma.oci")
    written = call(there, "save", "-o", archive, "t:lzma")  # a machine reads the layers
    assert written.status == 0, written.complaint
    moved = os.path.join(here.folder, "moved.changes")
    rebased = call(there, "rebase", "-o", moved, file, here.image)
    assert rebased.status == 0, rebased.complaint
    assert [_methods(each) for each in (usual, file, moved)] == [1 << 1 | 1 << 3, 1 << 1, 1 << 1]
    box = os.path.join(here.folder, "lzma.box")
    bundled = call(there, "bundle", "--kit", "-o", box, "t:lzma")
    assert bundled.status == 0, bundled.complaint
    where = {"PATH": "/usr/local/bin:/usr/bin:/bin", "APPPOT_CACHE": f"{here.folder}/cache"}
    words = [box, "--network", "none", "--no-job-dir", "--", "cat", "/opt/t/new"]
    ran = _outside(words, where)
    assert (ran.returncode, ran.stdout) == (0, b"new\n"), ran.stderr
