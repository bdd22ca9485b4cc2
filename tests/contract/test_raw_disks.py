"""Raw disk images are run: with any partition table, copied on write, or written to."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from tests.contract import rawdisks
from tests.contract.rawdisks import Part

if TYPE_CHECKING:
    from tests.contract.harness import AppPot, Ended

ROOT_TYPE = "4f68bce3-e8cd-4db1-96e7-fbcaf984b709"


@pytest.fixture(scope="module")
def root(shared_apppot: AppPot) -> str:
    return rawdisks.make_root(shared_apppot, os.path.join(shared_apppot.folder, "root"))


@pytest.fixture(scope="module")
def ext4(root: str, shared_apppot: AppPot) -> str:
    return rawdisks.mke2fs(root, os.path.join(shared_apppot.folder, "ext4.img"))


def run(apppot: AppPot, disk: str, script: str, *options: str) -> Ended:
    """Run a script on a disk."""
    words = (*("--network", "none"), *options)
    return replace(apppot, image=disk).run("sh", "-c", script, options=words)


def digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@pytest.mark.parametrize("kind", ["ext2", "ext3", "ext4"])
def test_whole_disk_is_copied_on_write(shared_apppot: AppPot, root: str, kind: str) -> None:
    disk = rawdisks.mke2fs(root, shared_apppot.path(f"{kind}.img"), kind)
    before = digest(disk)
    done = run(shared_apppot, f"./{kind}.img", "id -u; echo new >/usr/new; cat /usr/new", "--root")
    assert (done.status, done.text) == (0, "0\nnew\n"), done.complaint
    assert run(shared_apppot, f"./{kind}.img", "cat /usr/new").status == 1
    assert digest(disk) == before


@pytest.mark.parametrize(
    ("label", "parts", "number"),
    [
        ("dos", [Part(8, "82"), Part(60, "83", "root")], 2),
        ("dos", [Part(8, "82"), Part(0, "5"), Part(4, "83"), Part(60, "83", "root")], 6),
        ("gpt", [Part(8, "L"), Part(60, ROOT_TYPE, "root")], 2),
        ("gpt", [Part(60, "L", "root"), Part(8, "S")], 1),
    ],
)
def test_root_is_found_in_a_partition(
    shared_apppot: AppPot, ext4: str, label: str, parts: list[Part], number: int
) -> None:
    if not rawdisks.has_sfdisk():
        pytest.skip("sfdisk is not installed (package fdisk)")
    filled = [replace(part, file=ext4 if part.file else "") for part in parts]
    disk = rawdisks.partitioned(shared_apppot.path("disk.img"), label, filled)
    done = run(shared_apppot, disk, "echo here", "-v")
    assert (done.status, done.text) == (0, "here\n"), done.complaint
    assert f"partition {number} (" in done.complaint
    chosen = run(shared_apppot, disk, "echo here", "--partition", str(number))
    assert chosen.text == "here\n"
    wrong = run(shared_apppot, disk, "true", "--partition", "9")
    assert wrong.status == 125
    assert "no such partition" in wrong.complaint
    written = run(shared_apppot, disk, "echo kept >/kept", "--write", "--root")
    assert written.status == 0, written.complaint
    assert run(shared_apppot, disk, "cat /kept").text == "kept\n"


@pytest.mark.sample
def test_written_disk_is_left_clean(shared_apppot: AppPot, ext4: str) -> None:
    disk = shutil.copy(ext4, shared_apppot.path("written.img"))
    script = "mkdir /new; i=0; while [ $i -lt 200 ]; do echo $i >/new/$i; i=$((i+1)); done"
    assert run(shared_apppot, disk, script, "--write", "--root").status == 0
    with open(disk, "rb") as file:
        file.seek(1024)
        superblock = file.read(1024)
    assert superblock[58] & 1, "not unmounted"
    assert not superblock[96] & 4, "the journal would have to be replayed"
    done = run(shared_apppot, disk, "ls /new | wc -l; cat /new/199", "-v")
    assert done.text == "200\n199\n"
    assert "not unmounted cleanly" not in done.complaint


def test_writer_excludes_all_others(shared_apppot: AppPot, ext4: str) -> None:
    disk = shutil.copy(ext4, shared_apppot.path("locked.img"))
    other = replace(shared_apppot, image=disk)
    options = ("--network", "none", "--write", "--root")
    command = ("sh", "-c", "echo up; cat")
    with other.start(command, options=options, stdin=subprocess.PIPE) as writer:
        writer.expect(b"up\n")
        for more in ((), ("--write",)):
            done = run(shared_apppot, disk, "true", *more)
            assert done.status == 125
            assert "in use by another machine" in done.complaint
    with other.start(command, stdin=subprocess.PIPE) as reader:
        reader.expect(b"up\n")
        assert run(shared_apppot, disk, "echo too").text == "too\n"
        assert run(shared_apppot, disk, "true", "--write").status == 125


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("./none.img",), "No such file"),
        (("./text.img",), "no known file system"),
        (("./qcow.img",), "qemu-img convert"),
        (("./cut.img",), "cut off"),
        (("--write", "debian:bookworm"), "is the name of an image"),
    ],
)
def test_what_cannot_be_run_is_explained(
    shared_apppot: AppPot, ext4: str, words: tuple[str, ...], says: str
) -> None:
    with open(shared_apppot.path("text.img"), "w", encoding="utf-8") as file:
        file.write("no disk\n" * 1000)
    with open(shared_apppot.path("qcow.img"), "wb") as file:
        file.write(b"QFI\xfb" + bytes(65536))
    with open(ext4, "rb") as file, open(shared_apppot.path("cut.img"), "wb") as cut:
        cut.write(file.read(20 << 20))
    *options, image = words
    done = run(shared_apppot, image, "true", *options)
    assert done.status == 125
    assert says in done.complaint
    assert "Traceback" not in done.complaint
