"""Contract: the guest, and root in it, reaches only what it was given."""

from __future__ import annotations

import hashlib
import os
import shlex
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.contract.harness import AppPot

# A word that only the host's file holds; the guest must never print it.
SECRET = "the-hosts-own-secret-4711"


@pytest.fixture
def secret(apppot: AppPot) -> str:
    """Return a file of the host that lies beside the job folder."""
    path = os.path.join(apppot.folder, "secret")
    with open(path, "w", encoding="ascii") as file:
        file.write(SECRET)
    return path


# Each is one way out that must fail; {secret} and {folder} are host paths.
ESCAPES = {
    "hostfs of the host's root": "mount -t hostfs none /mnt -o /; cat /mnt/{secret}",
    "hostfs of a folder": "mount -t hostfs none /mnt -o {folder}; cat /mnt/secret",
    "hostfs by its source": "mount -t hostfs {folder} /mnt; cat /mnt/secret",
    "hostfs without an option": "mount -t hostfs none /mnt; cat /mnt/{secret}",
    "hostfs by other numbers": (
        "for n in $(seq 0 64) -1 4294967303 ./7 7/.. /proc/self/fd/7/..; do"
        " mount -t hostfs none /mnt -o $n 2>/dev/null && cat /mnt/secret /mnt/{secret}"
        " /mnt/../secret; umount /mnt 2>/dev/null; done"
    ),
    "9p of every tag": (
        "for n in 0 1 2; do"
        " mount -t 9p share$n /mnt -o trans=virtio,version=9p2000.L,aname={folder} &&"
        " cat /mnt/secret /mnt/../secret /mnt/{secret}; umount /mnt; done"
    ),
    "a share's parent": "cat /job/../secret /job/./../secret; cd /job; cat ../secret",
    "a link to an absolute path": "ln -s {secret} /job/l; cat /job/l",
    "a link that climbs": "ln -s ../secret /job/l2; cat /job/l2",
    "a link to a folder above": "ln -s {folder} /job/l3; cat /job/l3/secret; ls /job/l3/",
    "a hard link": "ln {secret} /job/hard; ln /job/../secret /job/hard; cat /job/hard",
    "the root of PID 1": "cat /proc/1/root/{secret} /proc/1/cwd/{secret} /proc/1/fd/*/secret",
    "other disks": (
        "major=$(sed -nE 's/ (ubd|virtblk)$//p' /proc/devices);"
        " for n in $(seq 0 16 255); do mknod /tmp/d$n b $major $n; head -c 4096 /tmp/d$n >/dev/null"
        " && grep -a -m1 {word} /tmp/d$n; done"
    ),
    "the memory": "grep -a -m1 {word} /dev/mem; mknod /tmp/mem c 1 1; head -c 9999999 /tmp/mem",
    "a module": "insmod /job/evil.ko; modprobe evil; cat /proc/modules",
    "the management console": "cat /dev/mconsole; ls /proc/mconsole; echo x >/proc/exitcode",
    "other file systems": (
        "for t in 9p virtiofs nfs cifs humfs host; do mount -t $t {folder} /mnt -o trans=fd; done;"
        " cat /mnt/secret"
    ),
}


@pytest.mark.parametrize("way", ESCAPES)
def test_root_in_the_guest_does_not_reach_the_host(apppot: AppPot, secret: str, way: str) -> None:
    script = ESCAPES[way].format(
        secret=shlex.quote(secret), folder=shlex.quote(apppot.folder), word=SECRET[:9] + "[s]"
    )
    done = apppot.sh(f"{script}; echo tried", options=("--root",))
    assert done.status == 0, done
    assert done.stdout.endswith(b"tried\n")
    assert SECRET.encode() not in done.stdout + done.stderr
    with open(secret, encoding="ascii") as file:
        assert file.read() == SECRET
    assert os.stat(secret).st_nlink == 1


def test_links_resolve_in_the_guest(apppot: AppPot) -> None:
    os.symlink("/etc/hostname", apppot.path("absolute"))
    os.symlink("../../../../../../etc/hostname", apppot.path("climbing"))
    done = apppot.sh("cat absolute climbing", options=("--hostname", "inside"))
    assert done.stdout in (b"inside\ninside\n", b"")  # an image without the file: not found
    assert done.stdout or b"No such file" in done.stderr


@pytest.mark.sample
def test_only_the_file_of_a_file_s_folder_is_reached(apppot: AppPot, secret: str) -> None:
    if not _has_landlock(apppot):
        pytest.skip("without Landlock, QEMU can reach the folder of a file that it shares")
    with open(os.path.join(apppot.folder, "given"), "w", encoding="ascii") as file:
        file.write("given\n")
    script = (
        "cat /x; for n in 0 1 2; do for t in 9p virtiofs; do"
        " mount -t $t share$n /mnt -o trans=virtio,version=9p2000.L || mount -t $t share$n /mnt;"
        " cat /mnt/secret; echo x >/mnt/secret;"
        " echo x >/mnt/new; umount /mnt; done; done; echo tried"
    )
    done = apppot.sh(script, options=("--root", "--bind", f"{apppot.folder}/given:/x"))
    assert done.stdout.startswith(b"given\n")
    assert done.stdout.endswith(b"tried\n")
    assert SECRET.encode() not in done.stdout + done.stderr
    assert not os.path.exists(os.path.join(apppot.folder, "new"))
    with open(secret, encoding="ascii") as file:
        assert file.read() == SECRET


def _has_landlock(apppot: AppPot) -> bool:
    found = apppot.call(apppot.verb("doctor", "landlock"))
    return found.status == 0


@pytest.mark.sample
def test_the_base_cannot_be_written(apppot: AppPot) -> None:
    stores = [path for path in os.environ["APPPOT_STORE"].split(":") if os.path.isdir(path)]
    blobs = [
        os.path.join(folder, name)
        for top in stores
        for folder, _, names in os.walk(top)
        for name in names
    ]
    before = {path: _digest(path) for path in blobs}
    script = (
        f"d={apppot.engine.disk}; ls -l $d >/dev/null && echo there; dd if=/dev/zero of=$d bs=4096"
        " count=9 conv=notrunc,fsync; echo dd:$?; blockdev --setrw $d; dd if=/dev/zero"
        " of=$d bs=4096 count=9 conv=notrunc,fsync; echo dd:$?"
    )
    done = apppot.sh(script, options=("--root",))
    assert done.stdout.split()[:2] == [b"there", b"dd:1"]
    assert done.stdout.split()[-1] == b"dd:1"
    assert {path: _digest(path) for path in blobs} == before


def _digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def test_a_race_of_links_and_folders_on_a_share(apppot: AppPot, secret: str) -> None:
    """One process exchanges a folder and a link to the host's folder, another opens through it."""
    os.mkdir(apppot.path("real"))
    with open(apppot.path("real", "secret"), "w", encoding="ascii") as file:
        file.write("decoy\n")
    os.symlink(apppot.folder, apppot.path("link"))
    racer = (
        "perl -e 'while (1) { rename q(now), q(a); rename q(link), q(now); rename q(now), q(link);"
        " rename q(a), q(now) }' & "
    )
    script = (
        f"cd /job; mv real now; {racer} n=0; while [ $n -lt 300 ]; do n=$((n+1));"
        " cat now/secret 2>/dev/null; done | sort | uniq -c; echo end"
    )
    done = apppot.sh(script, options=("--root",), timeout=100)
    assert done.stdout.endswith(b"end\n")
    assert b"decoy" in done.stdout
    assert SECRET.encode() not in done.stdout


@pytest.mark.sample
def test_the_channel_is_the_agents_alone(apppot: AppPot) -> None:
    script = (
        f"for d in {apppot.engine.channel} /dev/tty0 /dev/console; do"
        " (printf 'APPPOT\\0\\1garbage' >$d); done;"
        " mknod /tmp/c c 10 $(sed -n 's/ hostpipe//p' /proc/misc) ||"
        " mknod /tmp/c c $(tr : ' ' </sys/class/virtio-ports/vport0p1/dev);"
        " (printf '\\7\\0\\1\\0\\0\\0\\0\\0' >/tmp/c);"
        " (timeout 1 cat /tmp/c >/dev/null); for p in /proc/1/fd/*; do"
        " (printf '\\7\\0\\1\\0\\0\\0\\0\\0' >$p); done; echo alive; exit 7"
    )
    for user in ("1234:1234", "root"):
        done = apppot.sh(f"({script}) 2>/dev/null", options=("--user", user))
        # Root may end its own machine by this, which is told as a failure.
        assert done.status in ((7, 125) if user == "root" else (7,)), done
        assert b"APPPOT" not in done.stdout
        assert "Traceback" not in done.complaint


@pytest.mark.sample
def test_the_guest_kernel_cannot_gain_privileges(apppot: AppPot) -> None:
    with apppot.start(("sh", "-c", "echo up; sleep 1000")) as running:
        running.expect(b"up\n")
        with open(f"/proc/{running.kernel()}/status", encoding="ascii") as file:
            status = dict(line.split(":", 1) for line in file)
        assert status["NoNewPrivs"].strip() == "1"
        inherited = {
            os.readlink(f"/proc/{running.kernel()}/fd/{name}")
            for name in os.listdir(f"/proc/{running.kernel()}/fd")
        }
        assert not any(path.startswith(os.path.expanduser("~") + "/.") for path in inherited)


def test_opening_ptys_and_using_devices_of_the_guest_works(apppot: AppPot) -> None:
    done = apppot.sh("script -qc 'tty; echo in' /dev/null </dev/null", options=("--root",))
    assert b"/dev/pts/" in done.stdout
    assert b"in\r\n" in done.stdout
