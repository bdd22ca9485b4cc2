"""Real bootstraps, as root and as ordinary users; they need a mirror (APPPOT_TEST_MIRROR=1)."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from apppot import kit
from apppot.errors import AppPotError, KitError
from apppot.image import debsources, erofs
from apppot.machine.probes import Mode, uml_mode
from tests.unit.erofs_reader import Reader

if TYPE_CHECKING:
    from collections.abc import Iterator

UID = 4242
SUITE = os.environ.get("APPPOT_TEST_SUITE", "bookworm")
INCLUDE = "iputils-ping"


def _obstacle() -> str:
    """Return why this cannot be done here, or ''."""
    if os.environ.get("APPPOT_TEST_MIRROR") != "1":
        return "downloads 60 MB from this computer's mirror: set APPPOT_TEST_MIRROR=1"
    if not shutil.which("mmdebstrap"):
        return "mmdebstrap is not installed"
    if not debsources.host_targets():
        return "this computer's apt has no mirror"
    try:
        erofs.mkfs_program()
    except AppPotError as error:
        return str(error)
    return ""


OBSTACLE = _obstacle()
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(bool(OBSTACLE), reason=OBSTACLE),
]
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")  # cap_net_raw=ep


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A folder of user 4242 (or of this user, who is then the only one), outside pytest's."""
    path = Path(tempfile.mkdtemp(prefix="apppot-test-", dir="/var/tmp"))
    path.chmod(0o755)
    if os.getuid() == 0:
        os.chown(path, UID, UID)
    yield path
    shutil.rmtree(path)


def bootstrap(home: Path, name: str, *options: str, prefix: tuple[str, ...] = ()) -> str:
    """Bootstrap as an ordinary user; return the image's digest."""
    user = ("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups")
    argv = [*prefix, *(user if os.getuid() == 0 else ())]
    argv += [sys.executable, "-m", "apppot", "bootstrap", f"debian:{SUITE}", f"--name={name}"]
    argv += [f"--include={INCLUDE}", *options]
    done = subprocess.run(argv, env=environment(home), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"{name}:latest sha256:")
    return done.stdout.split()[1]


@pytest.fixture
def machine(home: Path) -> str:
    """The address of a kit, with which user 4242's machines can boot."""
    try:
        found = kit.find()
    except KitError as error:
        pytest.skip(f"machines need a kit: {error}")
    if uml_mode(found).mode is Mode.NONE:
        pytest.skip("User-Mode Linux does not boot here")
    return found.path


def as_root(home: Path, *options: str) -> str:
    """Bootstrap as root, with its own store; return the image's digest."""
    argv = [sys.executable, "-m", "apppot", "bootstrap", *options, "--mode=root"]
    env = {**environment(home), "APPPOT_STORE": str(home / "root-store")}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()[1]


def environment(home: Path) -> dict[str, str]:
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "APPPOT_STORE": str(home / "store"),
        "APPPOT_TMPDIR": str(home),
        "APPPOT_MKFS_EROFS": erofs.mkfs_program(),
    }


@pytest.fixture(scope="module")
def digest(home: Path) -> str:
    if not shutil.which("fakechroot") or not shutil.which("fakeroot"):
        pytest.skip("fakechroot and fakeroot are not installed")
    return bootstrap(home, "fakechroot", "--mode=fakechroot")


def test_hard_cases_are_right(home: Path, digest: str) -> None:
    shown = json.loads(
        subprocess.check_output(
            [sys.executable, "-m", "apppot", "inspect", digest], env=environment(home)
        )
    )
    (layer,) = shown["layers"]
    tree = Reader(layer["path"]).tree()
    for path in (b"usr/bin/sudo", b"usr/bin/passwd", b"usr/bin/su"):
        assert (tree[path].mode, tree[path].uid) == (stat.S_IFREG | 0o4755, 0)
    assert (tree[b"etc/shadow"].mode, tree[b"etc/shadow"].gid) == (stat.S_IFREG | 0o640, 42)
    assert tree[b"usr/bin/ping"].xattrs == {b"security.capability": CAPABILITY}
    null = tree[b"dev/null"]
    assert (null.mode, null.device) == (stat.S_IFCHR | 0o666, (1, 3))
    (twin,) = (path for path in tree if re.fullmatch(rb"usr/bin/perl5\.\d+\.\d+", path))
    assert tree[b"usr/bin/perl"].nid == tree[twin].nid
    links = {path: node.data for path, node in tree.items() if stat.S_ISLNK(node.mode)}
    assert links[b"bin"] == b"usr/bin"
    assert links[b"etc/os-release"] == b"../usr/lib/os-release"
    assert links[b"etc/alternatives/awk"] == b"/usr/bin/mawk"
    where = str(home).encode()
    assert [path for path, data in links.items() if where in data or b"mmdebstrap" in data] == []
    assert b"etc/resolv.conf" not in tree
    assert b"etc/hostname" not in tree
    assert [p for p in tree if p.startswith(b"var/lib/apt/lists/") and b"Packages" in p] == []
    owners = {node.uid for node in tree.values()}
    assert UID not in owners
    assert {0, 42} <= owners  # root and _apt


def test_the_same_again_and_with_another_umask(home: Path, digest: str) -> None:
    prefix = ("sh", "-c", 'umask 077; exec "$@"', "sh")
    assert bootstrap(home, "again", "--mode=fakechroot", prefix=prefix) == digest


@pytest.mark.skipif(os.getuid() != 0, reason="needs root")
def test_root_gets_the_same(home: Path, digest: str) -> None:
    assert as_root(home, f"debian:{SUITE}", "--name=root", f"--include={INCLUDE}") == digest


def test_a_machine_gives_the_same(home: Path, digest: str, machine: str) -> None:
    prefix = ("env", f"APPPOT_KIT={machine}")
    assert bootstrap(home, "machine", "--mode=machine", prefix=prefix) == digest


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to compare with")
def test_another_release_is_installed_in_a_machine(home: Path, machine: str) -> None:
    other = "trixie" if SUITE == "bookworm" else "bookworm"
    user = ("setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups")
    argv = [*user, sys.executable, "-m", "apppot", "bootstrap", f"debian:{other}"]
    env = {**environment(home), "APPPOT_KIT": machine}
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[1] == as_root(home, f"debian:{other}")


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to give subordinate ids for a while")
def test_user_namespaces_give_the_same(home: Path, digest: str) -> None:
    ids, users = home / "subids", home / "passwd"
    ids.write_text("apppot-test:200000:65536\n")
    users.write_text(
        Path("/etc/passwd").read_text(encoding="utf-8")
        + f"apppot-test:x:{UID}:{UID}::{home}:/bin/sh\n"
    )
    mounts = f"mount --bind {ids} /etc/subuid && mount --bind {ids} /etc/subgid"
    script = f'{mounts} && mount --bind {users} /etc/passwd && exec "$@"'
    prefix = ("unshare", "--mount", "sh", "-c", script, "sh")
    assert bootstrap(home, "unshare", "--mode=unshare", prefix=prefix) == digest


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to make a chroot")
def test_no_user_namespaces_at_all_gives_the_same(home: Path, digest: str) -> None:
    root = home / "root"
    root.mkdir()
    # A process in a chroot cannot make user namespaces.
    script = f'mount --rbind / {root} && exec chroot {root} "$@"'
    prefix = ("unshare", "--mount", "sh", "-c", script, "sh")
    assert bootstrap(home, "nouserns", prefix=prefix) == digest
    root.rmdir()
