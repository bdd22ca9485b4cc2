from __future__ import annotations

import gzip
import io
import os
import struct
import subprocess
import tarfile
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apppot.errors import AppPotError, ImageError, UsageError
from apppot.legacy import archive, cow, options, snap, start

if TYPE_CHECKING:
    from pathlib import Path


def parse(*words: str, **environ: str) -> options.StartOptions:
    return options.parse(words, environ)


def test_command_line_of_gc3pie() -> None:
    """GC3Pie's class makes such lines, VM-MAD's provider adds the token."""
    found = parse(
        *("--apppot", "apppot.img", "--changes", "apppot.changes.tar.gz", "--mem", "512M"),
        *("--extra", "VMMAD_AUTH='x y'", "tail", "-F", "/var/log/vmmad.log"),
    )
    assert found == options.StartOptions(
        image="apppot.img",
        changes="apppot.changes.tar.gz",
        memory="512M",
        extra=("VMMAD_AUTH='x y'",),
        command=("tail", "-F", "/var/log/vmmad.log"),
    )


def test_environment_is_the_default() -> None:
    assert parse("true", APPPOT_IMAGE="i.img", APPPOT_MEM="1G") == options.StartOptions(
        image="i.img", memory="1G", command=("true",)
    )
    assert parse("--image", "j.img", "--mem=2G", APPPOT_IMAGE="i.img", APPPOT_MEM="1G") == (
        options.StartOptions(image="j.img", memory="2G")
    )


def test_everything_after_the_first_word_is_the_programs() -> None:
    assert parse("sh", "--mem", "-X", "").command == ("sh", "--mem", "-X", "")
    assert parse("--", "--mem").command == ("--mem",)
    assert parse("-", "x").command == ("-", "x")


@pytest.mark.parametrize(
    "words", [["--nope"], ["-x"], ["--mem"], ["--apppot"], ["--memory", "1G", "true"]]
)
def test_unknown_or_cut_off_options(words: list[str]) -> None:
    with pytest.raises(UsageError):
        parse(*words)


@pytest.mark.parametrize("text", ["lots", "63M", "0", "-1G"])
def test_memory_that_is_none(text: str) -> None:
    with pytest.raises(UsageError):
        options.memory(text)


def test_pairs_of_cow_and_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "i.img").touch()
    (tmp_path / "odd,name:x").touch()
    assert options.split_image("i.img") == ("", "i.img")
    assert options.split_image("new.cow,i.img") == ("new.cow", "i.img")
    assert options.split_image("new,i.img") == ("new", "i.img")
    assert options.split_image("new:i.img") == ("new", "i.img")
    assert options.split_image("a.cow:debian") == ("a.cow", "debian")
    assert options.split_image("a.cow,debian:bookworm") == ("a.cow", "debian:bookworm")
    assert options.split_image("debian:bookworm") == ("", "debian:bookworm")
    assert options.split_image("odd,name:x") == ("", "odd,name:x")
    for text in (",i.img", "a.cow,"):
        with pytest.raises(UsageError):
            options.split_image(text)


def test_words_for_the_kernel() -> None:
    good = ("VMMAD_AUTH='T'", "quiet", "a b")
    assert options.kernel_words([*good, "mem=1G", "x ubd0=y", "rdinit=/x", " "]) == (
        good,
        ("mem=1G", "x ubd0=y", "rdinit=/x"),
    )
    for text in ("tab\t", "ümlaut", "line\n", "x" * 3000):
        with pytest.raises(UsageError):
            options.kernel_words([text])


def test_mistakes_of_snap() -> None:
    for words in ([], ["changes"], ["undo", "x"], ["--what"], ["merge", "a", "b", "c"]):
        with pytest.raises(UsageError):
            snap.snap(words)


def test_cow_files_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "x.cow"
    path.write_bytes(b"text\n" * 1000)
    with pytest.raises(ImageError, match="no COW file"):
        cow.open_file(str(path), "sha256:1", "i.img")
    path.write_bytes(cow.MAGIC + b"{}")
    with pytest.raises(ImageError, match="damaged"):
        cow.open_file(str(path), "sha256:1", "i.img")
    path.write_bytes(b"OOOM" + struct.pack(">I", 2) + b"/images/old.img".ljust(5000, b"\0"))
    with pytest.raises(ImageError, match=r"version 2, of the disk /images/old\.img"):
        cow.open_file(str(path), "sha256:1", "i.img")


def gnu(folder: Path, path: Path, *more: str) -> None:
    """Archive a folder as the original did."""
    subprocess.run(
        [
            *("tar", "--create", "--gzip", f"--file={path}", "--no-check-device", *more),
            *(f"--listed-incremental={folder}.snar", f"--directory={folder}", "."),
        ],
        check=True,
    )


@pytest.mark.parametrize("form", ["gnu", "posix"])
def test_archive_becomes_a_plain_one_with_orders(tmp_path: Path, form: str) -> None:
    tree = tmp_path / "tree"
    for name in ("keep", "gone", "old/file", "proc/x", "home/user/job/result"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_text(name)
    gnu(tree, tmp_path / "base.tar.gz")
    time.sleep(1.1)
    (tree / "gone").unlink()
    (tree / "old").rename(tree / "new name")
    (tree / ("long" * 50)).write_text("long")
    os.link(tree / "keep", tree / "link")
    (tree / "proc/y").write_text("y")
    before = int(time.time())
    gnu(tree, tmp_path / "changes.tar.gz", f"--format={form}")
    plain = io.BytesIO()
    found = archive.convert(str(tmp_path / "changes.tar.gz"), plain)
    assert before - 2 <= found.made <= time.time()
    assert found.renames == b"M\0./old\0./new name\0"
    lists = orders(found.names)
    assert sorted(lists["."]) == sorted(["keep", "link", "long" * 50, "new name", "proc", "home"])
    assert "home/user/job" not in lists
    plain.seek(0)
    with tarfile.open(fileobj=plain) as result:
        entries = {entry.name: entry for entry in result}
    assert "long" * 50 in entries
    assert not [name for name in entries if name.startswith(("proc", "home/user/job"))]
    assert all(entry.type != archive.DUMPED for entry in entries.values())


def orders(data: bytes) -> dict[str, list[str]]:
    """Return the names of each folder that orders keep."""
    texts = data.decode().split("\0")
    found: dict[str, list[str]] = {}
    while texts and texts[0] == "K":
        end = texts.index("", 2)
        found[texts[1]] = texts[2:end]
        texts = texts[end + 1 :]
    assert texts in ([], [""])
    return found


def test_plain_tar_is_merged_without_deletions(tmp_path: Path) -> None:
    path = tmp_path / "plain.tar"
    with tarfile.open(path, "w") as tar:
        tar.addfile(tarfile.TarInfo("./a"), io.BytesIO())
    found = archive.convert(str(path), io.BytesIO())
    assert (found.folders, found.names, found.renames) == (0, b"", b"")


def test_a_time_in_the_future_deletes_nothing_newer_than_the_archive(tmp_path: Path) -> None:
    path = tmp_path / "future.tar"
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        entry = tarfile.TarInfo("a")
        entry.mtime = 2**32
        tar.addfile(entry, io.BytesIO())
    assert archive.convert(str(path), io.BytesIO()).limit()[0] <= time.time()


def sample() -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w", format=tarfile.GNU_FORMAT) as tar:
        for name, kind, text in (
            ("./", archive.DUMPED, b"Yfile\0Ddir\0Rold\0Tnew\0\0"),
            ("./file", tarfile.REGTYPE, b"contents"),
            ("./" + "n" * 150, tarfile.REGTYPE, b""),
            ("./dir", tarfile.DIRTYPE, b""),
        ):
            entry = tarfile.TarInfo(name)
            entry.type, entry.size = kind, len(text)
            tar.addfile(entry, io.BytesIO(text))
    return data.getvalue()


SAMPLE = sample()


@settings(max_examples=200, deadline=None)
@given(
    changes=st.lists(st.tuples(st.integers(0, 6 * 512), st.binary(max_size=12)), max_size=5),
    length=st.integers(0, len(SAMPLE)),
    packed=st.booleans(),
)
def test_no_bytes_lead_to_anything_but_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory,
    changes: list[tuple[int, bytes]],
    length: int,
    packed: bool,
) -> None:
    data = bytearray(SAMPLE)
    for at, piece in changes:
        data[at : at + len(piece)] = piece
    cut = bytes(data[:length])
    path = tmp_path_factory.getbasetemp() / "fuzz.tar"
    path.write_bytes(gzip.compress(cut, 1) if packed else cut)
    try:
        found = archive.convert(str(path), io.BytesIO())
    except AppPotError:
        return
    assert found.limit()[1] < 10**9


def test_choice_of_the_payload_is_a_shell_script() -> None:
    subprocess.run(["sh", "-n", "-c", start.CHOICE], check=True)
