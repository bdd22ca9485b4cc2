"""Archives that `import` takes for root file systems, and those that it does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from apppot.errors import ImageError
from apppot.image import importing
from tests.unit.changes_archives import archive

if TYPE_CHECKING:
    from pathlib import Path

BLOB = "3b" * 32


@pytest.mark.parametrize(
    "names",
    [
        (f"blobs/sha256/{BLOB}", "index.json", "oci-layout"),  # skopeo
        (f"{BLOB}.tar", "manifest.json"),  # Docker, podman
        ("oci-layout", "index.json"),
        ("./blobs", "./oci-layout"),
    ],
)
def test_an_archive_of_images_is_no_root(names: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(archive(*((name, b"{}") for name in names)).getvalue())
    with path.open("rb") as file, pytest.raises(ImageError, match="archive of images") as error:
        importing._check_archive(file, str(path))
    assert f"apppot load {path}" in error.value.hint


@pytest.mark.parametrize(
    "names",
    [("bin/sh", "manifest.json"), ("./etc", "./manifest.json"), ("blobs/data", "index.json")],
)
def test_such_names_alone_do_not_matter(names: tuple[str, ...], tmp_path: Path) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(archive(*((name, b"{}") for name in names)).getvalue())
    with path.open("rb") as file:
        importing._check_archive(file, str(path))
        assert file.tell() == 0
