"""Images go back and forth between AppPot and other programs, through a real registry."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration.registries import PROGRAM, serving

if TYPE_CHECKING:
    from collections.abc import Iterator

NEEDED = (PROGRAM, "skopeo", "umoci", "podman", "setcap", "busybox")
MISSING = [name for name in NEEDED if not shutil.which(name)]
pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {' '.join(MISSING)}"),
    pytest.mark.skipif(os.getuid() != 0, reason="layers with devices and owners need root"),
    pytest.mark.timeout(600),
]
SHOW = (
    "cd /t && find . | sort | while read -r name; do stat -c '%A %u %g %Y %t:%T %n' \"$name\";"
    ' [ ! -f "$name" ] || md5sum "$name"; done'
)


def call(*words: str, **more: object) -> str:
    done = subprocess.run(words, capture_output=True, text=True, check=False, **more)  # type: ignore[call-overload]
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return str(done.stdout)


def apppot(*words: str) -> str:
    return call(sys.executable, "-m", "apppot", *words)


@pytest.fixture(scope="module")
def registries(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Start two registries on loopback; give their hosts and ports."""
    folder = tmp_path_factory.mktemp("registries")
    with serving(str(folder / "0")) as one, serving(str(folder / "1")) as two:
        yield one, two


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make an image of two layers with all that layers can have."""
    folder = tmp_path_factory.mktemp("made")
    layout, bundle = folder / "layout", folder / "bundle"
    call("umoci", "init", "--layout", str(layout))
    call("umoci", "new", "--image", f"{layout}:one")
    call("umoci", "unpack", "--image", f"{layout}:one", str(bundle))
    root = bundle / "rootfs"
    shutil.rmtree(root, ignore_errors=True)
    for name in ("bin", "tmp", "t/gone/deep", "t/opaque", "t/becomes-file", "t/" + "n" * 200):
        (root / name).mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    for name in ("sh", "find", "sort", "stat", "md5sum", "cat", "ls"):
        (root / "bin" / name).symlink_to("busybox")
    test = root / "t"
    (test / "file").write_bytes(b"one")
    (test / "gone/deep/f").write_bytes(b"x")
    (test / "deleted").write_bytes(b"x")
    (test / "opaque/old").write_bytes(b"x")
    (test / "becomes-file/f").write_bytes(b"x")
    (test / "becomes-folder").write_bytes(b"x")
    os.chown(test / "file", 70_000, 1 << 20)
    os.link(test / "file", test / "hard")
    os.setxattr(test / "file", "user.a", b"\0\xffb")
    (test / "capable").write_bytes(b"#!/bin/sh\n")
    call("setcap", "cap_net_raw+ep", str(test / "capable"))
    os.mknod(test / "null", 0o20666, os.makedev(1, 3))
    os.mkfifo(test / "fifo")
    with (test / "sparse").open("wb") as file:
        file.seek(3 << 20)
        file.write(b"end")
    for odd in ("a b", "tab\there", "quo'te\"", "ünï", "-dash", "back\\slash", "*"):
        (test / odd).write_text(odd)
    (test / "setuid").write_bytes(b"s")
    (test / "setuid").chmod(0o6755)
    call("umoci", "repack", "--refresh-bundle", "--image", f"{layout}:one", str(bundle))
    (test / "deleted").unlink()
    shutil.rmtree(test / "gone")
    shutil.rmtree(test / "opaque")
    (test / "opaque").mkdir()
    (test / "opaque/new").write_bytes(b"new")
    shutil.rmtree(test / "becomes-file")
    (test / "becomes-file").write_bytes(b"f")
    (test / "becomes-folder").unlink()
    (test / "becomes-folder").mkdir()
    os.link(test / "hard", test / "hard-of-lower")
    call("umoci", "repack", "--image", f"{layout}:two", str(bundle))
    call("umoci", "config", "--image", f"{layout}:two", "--config.cmd", "/bin/ls")
    return layout


def tree(root: Path) -> dict[str, object]:
    """Return all that matters of a tree."""
    found: dict[str, object] = {}
    inodes: dict[int, str] = {}
    for place, folders, files in os.walk(root):
        for name in sorted((*folders, *files)):
            path = os.path.join(place, name)
            state = os.lstat(path)
            regular = (state.st_mode & 0o170000) == 0o100000
            data = hashlib.sha256(Path(path).read_bytes()).hexdigest() if regular else ""
            link = os.readlink(path) if os.path.islink(path) else ""
            attributes = {
                key: os.getxattr(path, key, follow_symlinks=False)
                for key in os.listxattr(path, follow_symlinks=False)
            }
            relative = os.path.relpath(path, root)
            first = inodes.setdefault(state.st_ino, relative) if regular else ""
            found[relative] = (
                state.st_mode, state.st_uid, state.st_gid, state.st_rdev, data, link, attributes,
                first, int(state.st_mtime) if regular else 0,
            )  # fmt: skip
    return found


def unpacked(image: str, folder: Path) -> dict[str, object]:
    """Return the tree of a registry's image, as skopeo and umoci see it."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    layout = f"{folder}/layout"
    call("skopeo", "copy", "-q", "--src-tls-verify=false", f"docker://{image}", f"oci:{layout}:x")
    call("umoci", "unpack", "--image", f"{layout}:x", f"{folder}/bundle")
    return tree(folder / "bundle/rootfs")


def podman(image: str) -> str:
    """Return what podman's container shows, in a storage of its own."""
    folder = tempfile.mkdtemp(prefix="ap", dir="/tmp")  # it wants short names
    own = ["podman", "--root", f"{folder}/root", "--runroot", f"{folder}/run"]
    own += ["--cgroup-manager", "cgroupfs", "--events-backend", "file", "--runtime", "runc"]
    limits = [f"--ulimit={name}=1024:1024" for name in ("nofile", "nproc")]
    try:
        call(*own, "pull", "-q", "--tls-verify=false", image)
        return call(*own, "run", "--rm", "--net=host", *limits, image, "sh", "-c", SHOW)
    finally:
        subprocess.run(["umount", f"{folder}/root/overlay"], capture_output=True, check=False)
        shutil.rmtree(folder, ignore_errors=True)


FORMS = {
    "oci": (),
    "docker": ("--format", "v2s2"),
    "zstd": ("--dest-compress-format", "zstd"),
}


@pytest.mark.parametrize("form", FORMS)
def test_there_and_back(
    form: str,
    registries: tuple[str, str],
    layout: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("APPPOT_STORE", str(tmp_path / "store"))
    one, two = (f"{host}/test/{form}:two" for host in registries)
    copy = ("skopeo", "copy", "-q", *FORMS[form], "--dest-tls-verify=false")
    call(*copy, f"oci:{layout}:two", f"docker://{one}")
    apppot("pull", "--plain-http", one)
    apppot("push", "--plain-http", one, two)  # another registry: nothing can be used again
    assert unpacked(two, tmp_path / "two") == unpacked(one, tmp_path / "one")
    assert apppot("push", "--plain-http", one, f"{registries[0]}/again/{form}:x")
    shutil.rmtree(tmp_path / "store")
    monkeypatch.setenv("APPPOT_STORE", str(tmp_path / "store2"))
    apppot("pull", "--plain-http", two)
    here = apppot("run", "--network", "none", two, "--", "sh", "-c", SHOW)
    there = podman(two)
    assert here == there
    assert "./opaque/new" in here
    assert "./opaque/old" not in here
    assert "./deleted" not in here


@pytest.mark.parametrize("form", ["oci", "docker"])
def test_files(form: str, layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APPPOT_STORE", str(tmp_path / "store"))
    apppot("load", "-i", str(layout), "--platform", "linux/amd64")
    file = str(tmp_path / "saved.tar")
    apppot("save", "-o", file, "--format", form, "layout:two")
    kind = {"oci": f"oci-archive:{file}", "docker": f"docker-archive:{file}"}[form]
    call("skopeo", "copy", "-q", kind, f"oci:{tmp_path}/back:x")
    call("umoci", "unpack", "--image", f"{tmp_path}/back:x", f"{tmp_path}/bundle")
    call("umoci", "unpack", "--image", f"{layout}:two", f"{tmp_path}/original")
    assert tree(tmp_path / "bundle/rootfs") == tree(tmp_path / "original/rootfs")
    monkeypatch.setenv("APPPOT_STORE", str(tmp_path / "other"))
    assert "layout:two" in apppot("load", "-i", file)


def test_imports(layout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APPPOT_STORE", str(tmp_path / "store"))
    call("umoci", "unpack", "--image", f"{layout}:two", f"{tmp_path}/original")
    root = f"{tmp_path}/original/rootfs"
    call("tar", "--xattrs", "--xattrs-include=*", "-C", root, "-czf", f"{tmp_path}/x.tar.gz", ".")
    apppot("import", f"{tmp_path}/x.tar.gz", "tar:1")
    apppot("import", root, "folder:1")
    shown = {
        apppot("run", "--network", "none", n, "--", "sh", "-c", SHOW) for n in ("tar:1", "folder:1")
    }
    assert len(shown) == 1
    if shutil.which("mksquashfs"):
        call("mksquashfs", root, f"{tmp_path}/x.sqfs", "-quiet", "-no-progress", "-comp", "gzip")
        apppot("import", f"{tmp_path}/x.sqfs", "squashfs:1")
        shown.add(apppot("run", "--network", "none", "squashfs:1", "--", "sh", "-c", SHOW))
        assert len(shown) == 1
