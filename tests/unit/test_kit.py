"""Finding, reading and verifying kits: whole ones are taken, all others refused by name."""

from __future__ import annotations

import contextlib
import json
import os
import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apppot import kit
from apppot.cli import kit as cli
from apppot.cli.parser import parse
from apppot.errors import KitError
from apppot.kit import folders, manifest, verify
from apppot.kit.manifest import Component, File, Library, Manifest, Patch, Source

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

FILES: dict[str, bytes] = {
    "bin/linux": b"\x7fELF kernel",
    "bin/passt": b"\x7fELF passt",
    "boot/agent.cpio": b"0707",
}


def make_kit(folder: Path, files: dict[str, bytes] = FILES) -> Manifest:
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o755 if name.startswith("bin/") else 0o644)
    entries = {name: verify.entry_of(str(folder / name)) for name in files}
    source = Source("debian", "l.deb", "0" * 64, "linux", "7.3-1", "trixie", "mirror:/x", True)
    component = Component("7.3", "GPL-2.0-only", ("bin/linux",), (source,), (Patch("a", "1" * 64),))
    made = Manifest(entries, {"kernel": component}, {"gcc": "12"}, apppot="1")
    (folder / "kit.json").write_text(manifest.render(made))
    return made


@pytest.fixture
def whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "kit"
    folder.mkdir()
    make_kit(folder)
    monkeypatch.setenv("APPPOT_KIT", str(folder))
    monkeypatch.setenv("APPPOT_CACHE", str(tmp_path / "cache"))
    return folder


def refusal(function: Callable[[], object] = kit.find) -> str:
    with pytest.raises(KitError) as caught:
        function()
    assert caught.value.hint
    return caught.value.message


def test_a_whole_kit_is_found_and_its_files_named(whole: Path) -> None:
    found = kit.find()
    assert found.path == str(whole)
    assert found.file(kit.LINUX) == f"{whole}/bin/linux"
    assert found.manifest == manifest.load(str(whole))
    assert found.manifest.components["kernel"].sources[0].expired is True


def test_a_file_that_a_kit_lacks_is_an_error_that_names_it(whole: Path) -> None:
    assert "bin/confine" in refusal(lambda: kit.find().file(kit.CONFINE))


def test_no_kit_names_the_places_that_were_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("APPPOT_KIT", raising=False)
    monkeypatch.setenv("APPPOT_CACHE", str(tmp_path))
    monkeypatch.setattr("apppot.paths.SYSTEM_DATA", (str(tmp_path / "system"),))
    text = refusal()
    assert f"{tmp_path}/kit" in text
    assert f"{tmp_path}/system/kit" in text


def test_the_users_kit_comes_before_the_systems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("APPPOT_KIT", raising=False)
    monkeypatch.setenv("APPPOT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("apppot.paths.SYSTEM_DATA", (str(tmp_path / "system"),))
    system = tmp_path / "system" / "kit"
    system.mkdir(parents=True)
    make_kit(system)
    assert kit.find().path == str(system)
    own = tmp_path / "cache" / "kit"
    own.mkdir(parents=True)
    make_kit(own)
    assert kit.find().path == str(own)


def test_apppot_kit_that_is_no_kit_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APPPOT_KIT", str(tmp_path))
    assert re.search(f"APPPOT_KIT names {tmp_path}.*no kit.json", refusal())


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def relink(folder: Path) -> None:
    (folder / "bin/linux").unlink()
    (folder / "bin/linux").symlink_to("/bin/true")


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a flipped byte": (lambda k: flip(k / "bin/passt"), r"bin/passt has the SHA-256 digest \w+"),
    "a missing file": (lambda k: (k / "boot/agent.cpio").unlink(), "boot/agent.cpio is missing"),
    "a longer file": (
        lambda k: (k / "bin/linux").write_bytes(b"x" * 99),
        "bin/linux has 99 bytes instead of 11",
    ),
    "a link": (relink, "bin/linux is not a regular file"),
    "no execute permission": (lambda k: (k / "bin/linux").chmod(0o644), "linux is not executable"),
}


@pytest.mark.parametrize("seen_before", [False, True])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_kit_is_refused_and_the_file_named(
    whole: Path, damage: str, seen_before: bool
) -> None:
    if seen_before:
        kit.find()  # leaves its stamp
    how, expected = DAMAGE[damage]
    how(whole)
    assert re.search(expected, refusal())
    assert re.search(expected, refusal(lambda: verify.check(str(whole))))


def test_a_change_that_keeps_size_and_time_is_found_by_verify_and_find(whole: Path) -> None:
    kit.find()
    path = whole / "bin" / "linux"
    before = path.stat()
    flip(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert "bin/linux" in refusal()  # ctime tells


def edit(folder: Path, **changes: object) -> None:
    path = folder / "kit.json"
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"schema": 2}, "made by another AppPot version .its schema is 2, this AppPot reads 1"),
        ({"schema": "1"}, "damaged: kit.json: there is no 'schema'"),
        ({"architecture": "aarch64"}, "is for 'aarch64', not for x86_64"),
        ({"files": {}}, "does not have the digest"),
        ({"files": {"../x": {"sha256": "0" * 64, "size": 0, "executable": False}}}, "'../x'"),
        ({"files": {"x": {"sha256": "zz", "size": 0, "executable": False}}}, "'zz' is not a SHA"),
        ({"files": {"x": {"sha256": "0" * 64, "size": -1, "executable": False}}}, "not a size"),
        ({"files": []}, "damaged: kit.json"),
        ({"components": {"kernel": None}}, "damaged: kit.json"),
    ],
)
def test_a_foreign_or_nonsensical_manifest_is_refused(
    whole: Path, changes: dict[str, object], expected: str
) -> None:
    kit.find()
    edit(whole, **changes)
    assert re.search(expected, refusal())


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"\xff\xfe", b"null", b'{"schema": 1}'])
def test_a_manifest_that_is_none_is_refused(whole: Path, text: bytes) -> None:
    (whole / "kit.json").write_bytes(text)
    assert "kit" in refusal()


def test_another_architecture_of_the_computer_is_refused(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apppot.kit.os.uname", lambda: os.uname_result(("L", "h", "7", "v", "arm")))
    assert "this computer is arm" in refusal()


def test_hashing_happens_once_and_again_after_a_touch(
    whole: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hashed = []
    real = verify.sha256_of

    def count(path: str) -> str:
        hashed.append(path)
        return real(path)

    monkeypatch.setattr(verify, "sha256_of", count)
    kit.find()
    assert len(hashed) == len(FILES)
    kit.find()
    assert len(hashed) == len(FILES)
    os.utime(whole / "bin/linux")
    kit.find()
    assert len(hashed) == 2 * len(FILES)


def test_a_stamp_is_not_taken_for_another_kits(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit.find()
    moved = tmp_path / "moved"
    whole.rename(moved)  # the same folder, by inode, under another name
    flip(moved / "bin/linux")
    monkeypatch.setenv("APPPOT_KIT", str(moved))
    assert "bin/linux" in refusal()


def test_a_cache_that_cannot_be_written_is_not_needed(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("APPPOT_CACHE", str(tmp_path / "file"))
    assert kit.find().path == str(whole)
    assert kit.find().path == str(whole)


def test_a_stamp_full_of_rubbish_is_ignored(whole: Path, tmp_path: Path) -> None:
    kit.find()
    (stamp,) = (tmp_path / "cache" / "verified").iterdir()
    stamp.write_bytes(stamp.read_bytes().split(b"\n")[0] + b"\n\xff\0/../x\n")
    assert kit.find().path == str(whole)


texts = st.text(max_size=12)
digests = st.text("0123456789abcdef", min_size=64, max_size=64)
file_names = st.from_regex(r"[a-z]{1,5}(/[a-z.]{1,5}x){0,2}", fullmatch=True)
sources = st.builds(Source, texts, texts, digests, texts, texts, texts, texts, st.booleans())
components = st.builds(
    Component,
    version=texts,
    licence=texts,
    files=st.lists(file_names, max_size=3).map(tuple),
    sources=st.lists(sources, max_size=2).map(tuple),
    patches=st.lists(st.builds(Patch, texts, digests), max_size=2).map(tuple),
    libraries=st.lists(st.builds(Library, texts, texts, texts, texts), max_size=2).map(tuple),
    inputs=texts,
)
manifests = st.builds(
    Manifest,
    files=st.dictionaries(
        file_names, st.builds(File, digests, st.integers(0, 2**40), st.booleans()), max_size=4
    ),
    components=st.dictionaries(texts, components, max_size=3),
    toolchain=st.dictionaries(texts, texts, max_size=3),
    apppot=texts,
)


@given(manifests)
def test_a_manifest_that_is_written_is_read_back(made: Manifest) -> None:
    text = manifest.render(made)
    read = manifest.parse(text, "here")
    assert read == made
    assert manifest.render(read) == text


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | texts,
        lambda c: st.lists(c) | st.dictionaries(texts, c),
    ),
    st.sampled_from(["files", "components", "toolchain", "apppot", "digest"]),
)
def test_any_other_json_in_a_manifest_is_an_error_and_no_traceback(value: object, key: str) -> None:
    content = json.loads(manifest.render(Manifest({}))) | {key: value}
    with contextlib.suppress(KitError):  # any other exception fails the test
        manifest.parse(json.dumps(content), "here")


def call(*arguments: str) -> int:
    _, options = parse(["kit", *arguments])
    return cli.main(options)


def test_path_show_and_verify_of_the_command_line(
    whole: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call("path") == 0
    assert capsys.readouterr().out == f"{whole}\n"
    assert call("verify") == 0
    assert "3 files" in capsys.readouterr().out
    assert call("show", "--json") == 0
    assert manifest.parse(capsys.readouterr().out, "x") == manifest.load(str(whole))
    assert call("show") == 0
    out = capsys.readouterr().out
    assert re.search(
        r"kernel +7.3 +bin/linux +0.00 MB +linux 7.3-1 \(trixie, expired\) \+ 1 patch", out
    )


def test_verify_names_a_kit_that_is_given(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APPPOT_KIT", str(tmp_path))
    flip(whole / "bin/passt")
    with pytest.raises(KitError, match="bin/passt"):
        call("verify", str(whole))


def test_programs_that_need_a_loader_are_told_from_static_ones(tmp_path: Path) -> None:
    assert folders.needs_loader("/bin/sh")
    plain = tmp_path / "text"
    plain.write_text("#!/bin/sh\n")
    assert not folders.needs_loader(str(plain))
