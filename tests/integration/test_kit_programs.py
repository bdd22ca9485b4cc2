"""The kit's programs, as they are built and used: reproducible, and fit for locked-down hosts."""

from __future__ import annotations

import io
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from typing import TYPE_CHECKING

import pytest

from apppot import kit, paths
from apppot.errors import KitError
from apppot.kit import apt, manifest, tools

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

OTHER_USER = 4242


@pytest.fixture
def folder() -> Iterator[str]:
    """Give a folder that other users may enter, unlike pytest's own."""
    path = tempfile.mkdtemp(prefix="apppot-test-")
    os.chmod(path, 0o755)
    yield path
    shutil.rmtree(path)


def _for_all_to_read(folder: str) -> str:
    """Copy what builds a kit to where other users may read it: a checkout may be in a home."""
    base = paths.recipes_dir()
    ignored = shutil.ignore_patterns("__pycache__", "build")
    shutil.copytree(os.path.dirname(paths.__file__), f"{folder}/src/apppot", ignore=ignored)
    for name in ("kit", "guest"):
        shutil.copytree(os.path.join(base, name), f"{folder}/{name}", ignore=ignored)
    return f"{folder}/src"


def build(cache: str, output: str, *only: str, user: int | None = None) -> manifest.Manifest:
    """Run `apppot kit build` as its own process, as another user if we are root."""
    try:
        tools.require()
    except KitError as error:
        pytest.skip(str(error))
    os.makedirs(cache)
    as_user: list[str] = []
    if user is not None and os.getuid() == 0:
        os.chown(cache, user, user)
        as_user = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups"]
    source = _for_all_to_read(f"{cache}.project")
    options = [word for name in only for word in ("--only", name)]
    argv = [
        os.path.realpath(sys.executable),
        "-m",
        "apppot",
        "kit",
        "build",
        "--output",
        output,
        *options,
    ]
    environment = {
        "PATH": os.environ["PATH"],
        "APPPOT_CACHE": cache,
        "HOME": cache,
        "PYTHONPATH": source,
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    done = subprocess.run([*as_user, *argv], env=environment, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    return manifest.load(output)


def test_our_own_programs_do_not_depend_on_folder_or_user(folder: str) -> None:
    one = build(f"{folder}/a", f"{folder}/a/kit", "agent", "confine")
    other = f"{folder}/another/and/longer/folder"
    os.makedirs(os.path.dirname(other))
    two = build(other, f"{other}/kit", "agent", "confine", user=OTHER_USER)
    programs = {name for name in one.files if not name.startswith("licenses/")}
    assert programs == {"boot/agent.cpio", "bin/confine"}
    assert one == two


def test_a_program_from_the_mirror_does_not_depend_on_folder_or_user(folder: str) -> None:
    if not apt.available():
        pytest.skip("this computer has no apt")
    try:
        mirror = os.environ.get("APPPOT_MIRROR") or apt.host_mirror()
    except KitError as error:
        pytest.skip(str(error))
    assert mirror
    one = build(f"{folder}/a", f"{folder}/a/kit", "erofs-utils", user=OTHER_USER)
    other = f"{folder}/other-{os.getpid()}"
    two = build(other, f"{other}/kit", "erofs-utils")
    assert one == two
    source = one.components["erofs-utils"].sources[0]
    assert source.origin == "debian"
    assert source.sha256
    assert "@" not in source.mirror


@pytest.fixture(scope="module")
def the_kit() -> kit.Kit:
    try:
        return kit.find()
    except KitError as error:
        pytest.skip(str(error))


def test_mkfs_erofs_reads_tar_archives(the_kit: kit.Kit, tmp_path: Path) -> None:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        entry = tarfile.TarInfo("etc/name")
        entry.size = 5
        archive.addfile(entry, io.BytesIO(b"value"))
    (tmp_path / "in.tar").write_bytes(content.getvalue())
    image = tmp_path / "image"
    for compressor in ("lz4", "lz4hc", "lzma", "zstd", "deflate"):
        subprocess.run(
            [
                the_kit.file(kit.MKFS_EROFS),
                f"-z{compressor}",
                "--tar=f",
                image,
                tmp_path / "in.tar",
            ],
            check=True,
            capture_output=True,
        )
        assert image.read_bytes()[1024:1028] == b"\xe2\xe1\xf5\xe0"  # the superblock's magic


def test_mke2fs_formats_a_sparse_file(the_kit: kit.Kit, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with disk.open("wb") as stream:
        stream.truncate(64 << 20)
    subprocess.run([the_kit.file(kit.MKE2FS), "-q", "-t", "ext4", "-F", disk], check=True, env={})
    with disk.open("rb") as stream:
        stream.seek(1024 + 56)
        assert stream.read(2) == b"\x53\xef"
    assert disk.stat().st_blocks * 512 < 16 << 20


def test_passt_goes_on_where_user_namespaces_are_forbidden(
    the_kit: kit.Kit, tmp_path: Path
) -> None:
    # The limit is that of a user namespace made for the test: the host's is not touched. Without
    # capabilities there, passt cannot make any other namespace either.
    script = (
        "echo 0 > /proc/sys/user/max_user_namespaces && "
        'exec setpriv --bounding-set=-all --inh-caps=-all "$@"'
    )
    probe = subprocess.run(["unshare", "-Ur", "sh", "-c", script, "sh", "true"], check=False)
    if probe.returncode != 0:
        pytest.skip("the test itself may not make a user namespace here")
    path = str(tmp_path / "socket")
    argv = [the_kit.file(kit.PASST), "--vhost-user", "-s", path, "-f", "--one-off"]
    with subprocess.Popen(
        ["unshare", "-Ur", "sh", "-c", script, "sh", *argv], stderr=subprocess.PIPE
    ) as process:
        try:
            confined = wait_for_filter(process)
            with socket.socket(socket.AF_UNIX) as client:
                client.connect(path)
            _, said = process.communicate(timeout=10)  # it ends when its one client goes
        finally:
            process.kill()
    text = said.decode()
    assert confined, text
    assert "Couldn't create user namespace" in text
    assert "Couldn't detach isolating namespaces" in text
    assert "AVX2" not in text
    assert process.returncode == 0, text


def wait_for_filter(process: subprocess.Popen[bytes]) -> bool:
    """Wait until the process has its seccomp filter, no new privileges and no capabilities."""
    end = time.monotonic() + 10
    while time.monotonic() < end and process.poll() is None:
        with open(f"/proc/{process.pid}/status", encoding="ascii") as stream:
            status = dict(line.rstrip("\n").split(":\t", 1) for line in stream if ":\t" in line)
        if status["Seccomp"] == "2" and status["NoNewPrivs"] == "1":
            return int(status["CapEff"], 16) == 0
        time.sleep(0.02)
    return False
