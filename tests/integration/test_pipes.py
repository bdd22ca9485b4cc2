"""Images through pipes: standard input and output in place of files, and what cannot be one."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from typing import TYPE_CHECKING

import pytest

from apppot.errors import AppPotError, ImageError
from apppot.image import export, importing
from apppot.image.importing import Settings
from tests.unit.changes_archives import archive

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.timeout(300)
try:
    from apppot import kit

    kit.find()
except AppPotError as error:
    pytest.skip(f"needs a kit: {error}", allow_module_level=True)


def apppot(*words: str, stdin: bytes = b"", stdout: int = subprocess.PIPE) -> tuple[int, bytes]:
    """Return status and output; a traceback is no error message."""
    command = [sys.executable, "-m", "apppot", *words]
    done = subprocess.run(command, input=stdin, stdout=stdout, stderr=subprocess.PIPE, check=False)
    assert b"Traceback" not in done.stderr
    return done.returncode, done.stderr if done.returncode else done.stdout or b""


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("APPPOT_STORE", str(tmp_path / "store"))
    system = archive(("etc", None), ("etc/motd", b"hello\n"))
    assert apppot("import", "-", "piped:1", stdin=system.read())[0] == 0
    return "piped:1"


def test_an_image_goes_through_pipes(image: str) -> None:
    for words in (("save", image), ("save", "--format", "docker", "-o", "-", image)):
        status, data = apppot(*words)
        assert status == 0
        for source in ((), ("-i", "-"), ("-i", "/dev/stdin")):
            status, said = apppot("load", "-q", *source, stdin=data)
            assert (status, said.split()[0]) == (0, image.encode())


@pytest.mark.parametrize("form", ["tar", "oci", "erofs", "squashfs"])
def test_an_export_goes_to_standard_output(image: str, form: str, tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    export.export(image, export.Format(form), path)
    status, data = apppot("export", "-f", form, "-o", "-", image)
    assert status == 0
    with open(path, "rb") as file:
        written = file.read()
    # mksquashfs gives the topmost folder the present time.
    assert written == data or (form, len(written)) == ("squashfs", len(data))
    assert not os.path.exists("-")


@pytest.mark.parametrize("form", ["tar", "erofs", "squashfs", "sif"])
def test_what_was_exported_is_imported(image: str, form: str, tmp_path: Path) -> None:
    path = str(tmp_path / "file")
    export.export(image, export.Format(form), path)
    importing.import_(path, "back:1", Settings())
    with open(path, "rb") as file:
        assert apppot("import", "-", "back:2", stdin=file.read())[0] == 0
    for name in ("back:1", "back:2"):
        export.export(name, export.Format.TAR, str(tmp_path / "tar"))
        with tarfile.open(tmp_path / "tar") as found:
            assert [each.name for each in found][-1] == "etc/motd"


def test_what_has_no_files_is_refused(image: str, tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "empty.tar", "w"):
        pass
    (tmp_path / "zeros").write_bytes(bytes(1 << 20))
    (tmp_path / "nothing").touch()
    for name in ("empty.tar", "zeros", "nothing"):
        with pytest.raises(ImageError, match="has no files"):
            importing.import_(str(tmp_path / name), "none:1", Settings())


@pytest.mark.parametrize("words", [("save",), ("export", "-f", "tar", "-o", "-")])
def test_a_full_disk_is_told(image: str, words: tuple[str, ...]) -> None:
    with open("/dev/full", "wb") as full:
        status, said = apppot(*words, image, stdout=full.fileno())
    assert status == 1
    assert b"No space left" in said
