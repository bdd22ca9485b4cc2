"""Contract: changes are kept under a new name, wholly and alone; a base never changes."""

from __future__ import annotations

import json
import os
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from apppot import paths
from tests.contract.harness import stopping

if TYPE_CHECKING:
    from tests.contract.harness import AppPot, Ended

NO_NETWORK = ("--network", "none")


@pytest.fixture
def own(apppot: AppPot) -> AppPot:
    """Return the command line with a store of its own, in front of the one that has the base."""
    folder = os.path.join(apppot.folder, "store")
    return apppot.having(APPPOT_STORE=":".join((folder, *paths.store_dirs())))


def run(own: AppPot, image: str, script: str, *options: str) -> Ended:
    words = own.verb("run", *own.engine.options, *NO_NETWORK, *options, image, "--", "sh", "-c")
    return own.call([*words, script])


def layers(own: AppPot, image: str) -> list[dict[str, object]]:
    done = own.call(own.verb("inspect", image))
    found: list[dict[str, object]] = json.loads(done.stdout)["layers"]
    return found


CHANGES = """
set -e
echo new >/root/new; ln /root/new /root/hard; ln -s new /root/soft; mkfifo /root/fifo
mknod /root/null c 1 3; chown 7:8 /root/hard; chmod 4711 /root/hard
mkdir -p /srv/a/b; touch -d '2001-02-03 04:05:06.789012345 UTC' /srv/a/b/old
rm /etc/debian_version; rm -r /usr/share/common-licenses; mkdir /usr/share/common-licenses
echo mine >/usr/share/common-licenses/mine
mv /etc/skel /etc/bones
truncate -s 200M /root/holes; echo end >>/root/holes
printf 'x' >"/root/odd
name"
printf 'y' >"$(printf '/root/\\377\\376')"
echo gone >/tmp/gone
"""
LOOK = """
cat /root/new; readlink /root/soft; stat -c '%a %u %g %h' /root/hard
stat -c '%F %t %T' /root/null /root/fifo
stat -c %y /srv/a/b/old | sed 's/ +0000//'; ls /usr/share/common-licenses /etc/bones -A
ls /etc/debian_version /etc/skel 2>&1 | wc -l
stat -c %s /root/holes; tail -c 4 /root/holes; ls -b /root | grep -v null; ls -A /tmp | wc -l
"""


@pytest.mark.sample
def test_everything_that_was_changed_is_kept(own: AppPot) -> None:
    before = {layer["digest"]: _digest(str(layer["path"])) for layer in layers(own, own.image)}
    done = run(own, own.image, CHANGES, "--root", "--save", "mine:1")
    assert done.status == 0, done.complaint
    assert re.search(r"apppot: saved as mine:1 \(\d+ [kM]B\)", done.complaint)
    assert done.stdout == b""
    found = run(own, "mine:1", LOOK, "--root")
    assert found.text.splitlines() == [
        "new", "new", "4711 7 8 2", "character special file 1 3", "fifo 0 0",
        "2001-02-03 04:05:06.789012345",
        "/etc/bones:", ".bash_logout", ".bashrc", ".profile", "",
        "/usr/share/common-licenses:", "mine", "2", "209715204", "end",
        "fifo", "hard", "holes", "new", "odd\\nname", "soft", "\\377\\376", "0",
    ]  # fmt: skip
    assert found.complaint == ""
    base, new = layers(own, own.image), layers(own, "mine:1")
    assert new[:-1] == base
    assert {layer["digest"]: _digest(str(layer["path"])) for layer in base} == before


def _digest(path: str) -> str:
    done = subprocess.run(["sha256sum", path], capture_output=True, check=True)
    return done.stdout.decode().split()[0]


# More names than one reading of a folder gives; more files than are open at a time.
MANY = """
set -e
long=$(printf 'n%.0s' $(seq 200))
mkdir -p /srv/big /srv/deep
for i in $(seq 700); do echo $i >/srv/big/$long$i; done
at=/srv/deep
for i in $(seq 40); do
    at=$at/d; mkdir $at; for j in 1 2 3 4 5 6 7 8 9; do echo $i$j >$at/a$j; done; echo $i >$at/z
done
"""
SUMS = "cd /srv && find . -type f -print0 | sort -z | xargs -0 sha256sum | sha256sum"


def test_big_and_deep_folders_are_kept(own: AppPot) -> None:
    made = run(own, own.image, MANY + SUMS, "--root", "--save", "many:1")
    assert made.status == 0, made.complaint
    found = run(own, "many:1", f"{SUMS}; find /srv -type f | wc -l", "--root")
    assert found.stdout == made.stdout + b"1100\n"


def test_what_the_machine_itself_made_is_not_kept(own: AppPot) -> None:
    """Whose name and home the payload has, its /job, and the names of hosts."""
    bind = os.path.join(own.folder, "bound")
    os.mkdir(bind)
    options = ("--save", "same:1", "--bind", f"{bind}:/opt/bound", "--hostname", "other")
    done = run(own, own.image, "test -d /opt/bound && id -un", *options)
    assert done.status == 0, done.complaint
    assert "nothing was changed" in done.complaint
    assert layers(own, "same:1") == layers(own, own.image)


def test_accounts_are_kept_without_the_callers(own: AppPot) -> None:
    options = ("--user", "4321:4321", "--save", "accounts:1")
    script = "sudo useradd zoe 2>&1 || exit 9; echo thing >~/thing; grep -c user4321 /etc/passwd"
    done = run(own, own.image, script, *options)
    if done.status == 9:
        pytest.skip(f"the image {own.image} has no sudo or useradd: {done.text}")
    assert (done.status, done.text) == (0, "1\n"), done.complaint
    found = run(own, "accounts:1", "cut -d: -f1 /etc/passwd /etc/shadow", "--root")
    assert found.text.splitlines().count("zoe") == 2
    assert "user4321" not in found.text
    home = run(own, "accounts:1", "stat -c '%u %n' /home/user4321/thing", "--root")
    assert home.text == "4321 /home/user4321/thing\n"


def test_saving_again_adds_a_layer(own: AppPot) -> None:
    assert run(own, own.image, "echo 1 >/root/a", "--root", "--save", "grow:1").status == 0
    assert run(own, "grow:1", "echo 2 >>/root/a", "--root", "--save", "grow:1").status == 0
    assert run(own, "grow:1", "cat /root/a", "--root").text == "1\n2\n"
    assert len(layers(own, "grow:1")) == len(layers(own, own.image)) + 2


def test_a_name_that_is_taken_is_refused_before_the_run(own: AppPot) -> None:
    assert run(own, own.image, "echo 1 >/root/a", "--root", "--save", "taken:1").status == 0
    again = run(own, own.image, "echo ran", "--root", "--save", "taken:1")
    assert (again.status, again.text) == (125, "")
    assert "exists already" in again.complaint
    forced = run(own, own.image, "echo 3 >/root/a", "--root", "--save", "taken:1", "--force")
    assert forced.status == 0
    assert run(own, "taken:1", "cat /root/a", "--root").text == "3\n"


def test_the_payloads_status_is_passed_on(own: AppPot) -> None:
    done = run(own, own.image, "echo 1 >/root/a; exit 7", "--root", "--save", "seven:1")
    assert (done.status, "saved as seven:1" in done.complaint) == (7, True)


@pytest.mark.sample
def test_a_disk_for_scratch_is_saved_as_well(own: AppPot) -> None:
    options = ("--root", "--scratch", "300M", "--save", "disk:1")
    script = "head -c 20000000 /dev/urandom >/root/big; rm -r /etc/skel; sha256sum </root/big"
    done = run(own, own.image, script, *options)
    assert done.status == 0, done.complaint
    found = run(own, "disk:1", "sha256sum </root/big; ls -d /etc/skel", "--root")
    assert found.text == done.text
    assert "No such file" in found.complaint


ATTRIBUTES = """
put() { perl -e 'syscall 188, $ARGV[0], $n = "user.some", $ARGV[1], 1, 0' "$@"; }
drop() { perl -e 'syscall 197, $ARGV[0], $n = "user.some"' "$@"; }
look() { perl -e 'print syscall(191, $ARGV[0], $n = "user.some", $v = "?", 1), $v' "$@"; }
"""


def test_a_folder_is_saved_if_only_its_attributes_were_changed(own: AppPot) -> None:
    def done(image: str, script: str, *options: str) -> str:
        return run(own, image, ATTRIBUTES + script, "--root", *options).text

    folders = "/srv/new /srv/gone /srv/other /srv/same"
    before = f"mkdir {folders}; put /srv/gone 1; put /srv/other 1; put /srv/same 1"
    done(own.image, before, "--save", "attributes:1")
    look = f"for f in {folders}; do look $f; done"
    assert done("attributes:1", look) == "-1?111111"
    after = "put /srv/new 2; drop /srv/gone; put /srv/other 2"
    done("attributes:1", after, "--save", "attributes:2")
    assert done("attributes:2", look) == "12-1?1211"


def test_times_on_a_disk_for_scratch_are_whole(own: AppPot) -> None:
    moment = "2045-06-07 08:09:10.123456789"
    script = f"touch -d '{moment} UTC' /root/late; stat -c %y /root/late"
    done = run(own, own.image, script, "--root", "--scratch", "300M", "--save", "late:1")
    assert done.text == f"{moment} +0000\n", done.complaint
    assert run(own, "late:1", "stat -c %y /root/late", "--root").text == done.text


def test_a_machine_that_was_killed_saves_nothing(own: AppPot) -> None:
    script = "echo 1 >/root/a; trap '' TERM; sleep 60 & wait; wait"
    options = ("--root", "--save", "killed:1", "--time-limit", "1", "--grace", "0.5")
    done = run(own, own.image, script, *options)
    assert done.status == 124
    assert "nothing was saved" in done.complaint
    assert own.call(own.verb("inspect", "killed:1")).status != 0


def test_a_full_store_is_told(own: AppPot) -> None:
    small = os.path.join(own.folder, "small")
    os.mkdir(small)
    words = ["mount", "-t", "tmpfs", "-o", "size=10m,mode=1777", "small", small]
    mounted = subprocess.run(words, capture_output=True, check=False)
    if mounted.returncode:
        pytest.skip(f"no small file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        script = "head -c 30000000 /dev/urandom >/root/big"
        full = own.having(APPPOT_STORE=f"{small}:{own.environment['APPPOT_STORE']}")
        done = run(full, own.image, script, "--root", "--save", "full:1")
        left = [name for _, _, names in os.walk(small) for name in names]
    finally:
        subprocess.run(["umount", small], check=True)
    assert done.status == 125
    assert "only" in done.complaint
    assert "free" in done.complaint
    assert [name for name in left if "lock" not in name] == ["oci-layout"]
    assert own.call(own.verb("inspect", "full:1")).status != 0
    # Nothing is lost: what to do is what was said.
    advice = done.complaint.partition("\nthen: apppot ")[2].split()
    assert own.call(own.verb(*advice)).status == 0
    os.unlink(advice[2])
    assert run(own, "full:1", "wc -c </root/big", "--root").stdout.strip() == b"30000000"


def test_commit_of_a_running_machine(own: AppPot) -> None:
    line = own.verb("run", *NO_NETWORK, "--root", own.image, "--", "sh", "-c")
    script = "echo first >/root/state; echo up; read word; echo $word"
    argv = [*line, script]
    running = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=own.job, env=own.environment
    )
    with stopping(running):
        assert running.stdin is not None
        assert running.stdout is not None
        assert running.stdout.readline() == b"up\n"
        machines = json.loads(own.call(own.verb("ps", "--json")).stdout)
        done = own.call(own.verb("commit", machines[0]["id"], "committed:1"))
        assert done.status == 0, done.complaint
        out, _ = running.communicate(b"on\n", timeout=60)
    assert (running.returncode, out) == (0, b"on\n")
    assert run(own, "committed:1", "cat /root/state", "--root").text == "first\n"


def test_excludes(own: AppPot) -> None:
    script = "echo 1 >/root/keep; echo 2 >/root/drop; echo 3 >/var/tmp/scrap"
    options = ("--root", "--save")
    assert run(own, own.image, script, *options, "e:1", "--exclude", "root/dr*").status == 0
    look = "cd /; ls root/* var/tmp/* 2>/dev/null"
    assert run(own, "e:1", look, "--root").text == "root/keep\n"
    assert run(own, own.image, script, *options, "e:2", "--no-default-excludes").status == 0
    assert run(own, "e:2", look, "--root").text == "root/drop\nroot/keep\nvar/tmp/scrap\n"
