"""The initramfs writer: read back by cpio(1) and by an independent reader of the format."""

from __future__ import annotations

import shutil
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apppot.kit import cpio
from apppot.kit.recipes.agent import initramfs

if TYPE_CHECKING:
    from pathlib import Path
    from random import Random

FIELDS = (
    *("ino", "mode", "uid", "gid", "nlink", "mtime", "filesize", "devmajor", "devminor"),
    *("rdevmajor", "rdevminor", "namesize", "check"),
)


def read(data: bytes) -> list[tuple[str, dict[str, int], bytes]]:
    """Read an archive as the kernel's init/initramfs.c does."""
    members: list[tuple[str, dict[str, int], bytes]] = []
    at = 0
    while True:
        assert data[at : at + 6] == b"070701"
        texts = [data[at + 6 + 8 * i : at + 14 + 8 * i] for i in range(13)]
        head = dict(zip(FIELDS, (int(text, 16) for text in texts), strict=True))
        name = data[at + 110 : at + 110 + head["namesize"]]
        assert name.endswith(b"\0")
        at = (at + 110 + head["namesize"] + 3) & ~3
        content = data[at : at + head["filesize"]]
        at = (at + head["filesize"] + 3) & ~3
        if name == b"TRAILER!!!\0":
            assert not data[at:].strip(b"\0")
            return members
        members.append((name[:-1].decode(), head, content))


names = st.lists(
    st.text(st.characters(categories=("L", "N"), include_characters="-_ ."), min_size=1)
    .map(lambda text: text.replace("..", "x"))
    .filter(lambda text: text != "."),
    min_size=1,
    max_size=3,
).map("/".join)


@given(st.dictionaries(names, st.binary(max_size=300), max_size=6), st.randoms())
def test_what_is_written_is_read_and_order_does_not_matter(
    files: dict[str, bytes], random: Random
) -> None:
    entries = [cpio.regular(name, data, 0o640) for name, data in files.items()]
    written = cpio.archive(entries)
    random.shuffle(entries)
    assert cpio.archive(entries) == written
    assert len(written) % 512 == 0
    found = read(written)
    assert {name: content for name, _, content in found} == files
    for _, head, _ in found:
        assert head["mode"] == stat.S_IFREG | 0o640
        assert (head["uid"], head["gid"], head["mtime"], head["nlink"]) == (0, 0, 0, 1)
    assert len({head["ino"] for _, head, _ in found}) == len(found)


def test_device_nodes_and_links_carry_what_they_point_to() -> None:
    written = cpio.archive(
        [
            cpio.character_device("dev/console", 5, 1),
            cpio.symlink("a", "b/c"),
            cpio.directory("dev"),
        ]
    )
    link, folder, console = read(written)
    assert (link[0], link[2]) == ("a", b"b/c")
    assert stat.S_ISLNK(link[1]["mode"])
    assert folder[0] == "dev"  # before what is in it
    assert (folder[1]["mode"], folder[1]["nlink"]) == (stat.S_IFDIR | 0o755, 2)
    assert stat.S_ISCHR(console[1]["mode"])
    assert (console[1]["rdevmajor"], console[1]["rdevminor"]) == (5, 1)


@pytest.mark.parametrize("name", ["", "/init", "a/../b", "TRAILER!!!", "a\0b"])
def test_names_that_the_format_or_the_guest_could_not_bear_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cannot be a member's name"):
        cpio.archive([cpio.regular(name, b"")])


def test_a_name_given_twice_is_refused() -> None:
    with pytest.raises(ValueError, match="twice"):
        cpio.archive([cpio.regular("a", b"1"), cpio.regular("a", b"2")])


def test_cpio_itself_lists_and_extracts_the_initramfs(tmp_path: Path) -> None:
    program = shutil.which("cpio")
    if program is None:
        pytest.skip("cpio is not installed")
    archive = initramfs(b"\x7fELF program")
    listing = subprocess.run(
        [program, "-tv", "--quiet"], input=archive, capture_output=True, check=True
    ).stdout.decode()
    assert [line.split()[-1] for line in listing.splitlines()] == ["dev", "dev/console", "init"]
    assert "crw-------" in listing
    subprocess.run(
        [program, "-i", "--quiet", "init"], input=archive, cwd=tmp_path, check=True, timeout=10
    )
    assert (tmp_path / "init").read_bytes() == b"\x7fELF program"
    assert (tmp_path / "init").stat().st_mode & 0o777 == 0o755
