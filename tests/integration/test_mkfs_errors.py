"""The kit's mkfs.erofs tells of each write that fails: a layer is whole, or there is an error.

A seccomp filter lets certain system calls fail; nothing has to be filled, and no root is needed.
"""

from __future__ import annotations

import io
import os
import platform
import random
import stat
import subprocess
import sys
import tarfile
import tempfile
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apppot import kit
from apppot.errors import KitError
from tests.unit import erofs_reader

if TYPE_CHECKING:
    from pathlib import Path

WRITE, PWRITE, CLOSE = 1, 18, 3  # x86_64
DESCRIPTOR, COUNT = 0, 2  # arguments of write and pwrite
PAGE = 4096
# Fail calls of number N whose argument A is at least V with ENOSPC, then be the program.
WRAPPER = """
import ctypes, os, struct, sys
call, argument, least = map(int, sys.argv[1:4])
words = (
    (0x20, 0, 0, 0),                   # load the number
    (0x15, 0, 3, call),
    (0x20, 0, 0, 16 + 8 * argument),   # load the argument's lower half
    (0x35, 0, 1, least),
    (0x06, 0, 0, 0x00050000 | 28),     # ENOSPC
    (0x06, 0, 0, 0x7FFF0000),          # allow
)
code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *word) for word in words))
program = struct.pack("HxxxxxxP", len(words), ctypes.addressof(code))
libc = ctypes.CDLL(None, use_errno=True)
if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, program, 0, 0):
    sys.exit(99)
os.execv(sys.argv[4], sys.argv[4:])
"""

pytestmark = pytest.mark.skipif(
    platform.machine() != "x86_64", reason="the filter knows x86_64's system calls only"
)


@pytest.fixture(scope="module")
def program() -> str:
    try:
        return kit.find().file(kit.MKFS_EROFS)
    except KitError as error:
        pytest.skip(str(error))


def archive(path: Path, size: int = PAGE + 100) -> Path:
    """Write an archive with three files, the second of this size."""
    noise = random.Random(1)
    with tarfile.open(path, mode="w", format=tarfile.PAX_FORMAT) as out:
        for name, length in (("a", 100), ("b", size), ("c", 200)):
            entry = tarfile.TarInfo(name)
            entry.size = length
            out.addfile(entry, io.BytesIO(noise.randbytes(length)))
    return path


def mkfs(
    program: str, source: Path, *options: str, failing: tuple[int, int, int] = (0xFFFF, 0, 0)
) -> subprocess.CompletedProcess[str]:
    """Run mkfs.erofs while calls (number, argument, its least value) fail."""
    target = source.with_suffix(".erofs")
    target.unlink(missing_ok=True)
    words = [sys.executable, "-c", WRAPPER, *map(str, failing), program, "--quiet", "--tar=f"]
    done = subprocess.run(
        [*words, *options, target, source],
        env={"TMPDIR": str(source.parent)}, capture_output=True, text=True, check=False, timeout=30,
    )  # fmt: skip
    assert done.returncode != 99, "the filter could not be set"
    return done


@pytest.mark.parametrize("options", [(), ("--sort=none", "-Enoinline_data")])
def test_it_succeeds_under_a_filter_that_forbids_nothing(
    program: str, tmp_path: Path, options: tuple[str, ...]
) -> None:
    done = mkfs(program, archive(tmp_path / "in.tar"), *options)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("options", "failing"),
    [
        ((), (WRITE, DESCRIPTOR, 3)),  # the copy of the files' contents
        (("-zlz4",), (WRITE, DESCRIPTOR, 3)),
        (("--sort=none", "-Enoinline_data"), (PWRITE, COUNT, PAGE + 1)),  # straight to the image
        ((), (CLOSE, DESCRIPTOR, 3)),  # what NFS finds out last
    ],
)
def test_a_write_that_fails_is_an_error(
    program: str, tmp_path: Path, options: tuple[str, ...], failing: tuple[int, int, int]
) -> None:
    done = mkfs(program, archive(tmp_path / "in.tar"), *options, failing=failing)
    assert done.returncode == 1, done.stderr
    assert os.strerror(28) in done.stderr


def test_an_archive_that_ends_within_a_file_is_an_error(program: str, tmp_path: Path) -> None:
    source = archive(tmp_path / "in.tar", 300_000)
    os.truncate(source, 200_000)
    done = mkfs(program, source)
    assert done.returncode == 1, done.stderr
    assert "unexpected end" in done.stderr


@pytest.mark.parametrize("size", [32_000, 40_000, 65_536])
def test_long_extended_attributes(program: str, tmp_path: Path, size: int) -> None:
    """Headers that are longer than mkfs.erofs's own buffer."""
    value, archive = "".join(random.Random(size).choices("abc", k=size)), io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as out:
        member = tarfile.TarInfo("file")
        member.pax_headers = {"SCHILY.xattr.user.long": value}
        out.addfile(member)
    image = tmp_path / "image"
    words = [program, "--quiet", "--tar=f", "--sort=none", str(image)]
    done = subprocess.run(words, input=archive.getvalue(), capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    assert value.encode() in image.read_bytes()


@settings(max_examples=40, deadline=None)
@given(names=st.lists(st.text("-.+a~é", min_size=1, max_size=3), min_size=1, max_size=40))
def test_names_in_any_order_and_again(program: str, names: list[str]) -> None:
    """In order they are found quickly; out of it, or given again, as well."""
    wanted, archive = {}, io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w", format=tarfile.PAX_FORMAT) as out:
        for number, name in enumerate(name for name in names if name not in {".", ".."}):
            wanted[f"d/{name}".encode()] = text = str(number).encode()
            member = tarfile.TarInfo(f"d/{name}")
            member.size = len(text)
            out.addfile(member, io.BytesIO(text))
    with tempfile.NamedTemporaryFile() as image:
        words = [program, "--quiet", "--tar=f", "--sort=none", "-b4096", image.name]
        subprocess.run(words, input=archive.getvalue(), capture_output=True, check=True)
        found = erofs_reader.Reader(image.name).tree()
    assert {path: node.data for path, node in found.items() if stat.S_ISREG(node.mode)} == wanted
