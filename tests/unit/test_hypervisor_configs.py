"""Configurations for xl and libvirt: what they read is what was meant."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import uuid
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from apppot import kit
from apppot.errors import UsageError
from apppot.image import store
from apppot.image.bootdisk import export, hosts, make
from apppot.image.bootdisk.export import Configuration
from apppot.image.model import Image, ImageConfig, Layer
from tests.unit.test_bootdisk import tools  # noqa: F401  a fixture

if TYPE_CHECKING:
    from apppot.kit import Kit

VALIDATE = shutil.which("virt-xml-validate")
DOMAIN = hosts.Domain(
    "debian-12",
    "debian:12",
    uuid.UUID("f9f58786-d3c6-50c7-8566-162d9bad4d12"),
    disk="/srv/a b&c,'d'.raw",
    kernel="/srv/vmlinuz",
    initramfs="/srv/initramfs",
    arguments="console=hvc0 quiet",
)


def settings(text: str) -> dict[str, Any]:
    """Read xl's configuration: its strings and lists are written as Python's are."""
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    return {name: ast.literal_eval(value) for name, value in (x.split(" = ", 1) for x in lines)}


def test_a_configuration_for_xl() -> None:
    found = settings(hosts.xen(DOMAIN))
    assert found["type"] == "pvh"
    assert (found["kernel"], found["ramdisk"]) == ("/srv/vmlinuz", "/srv/initramfs")
    assert found["extra"] == "console=hvc0 quiet"
    assert (found["memory"], found["vcpus"]) == (1024, 1)
    # What follows `target=` is a file's name up to the string's end.
    assert len(found["disk"]) == 1
    assert found["disk"][0].endswith(", target=/srv/a b&c,'d'.raw")


@given(st.text(st.characters(blacklist_categories=("C", "Z"))))
def test_texts_of_xl_are_read_back(text: str) -> None:
    assert ast.literal_eval(hosts.quoted(text)) == text


@pytest.mark.parametrize("text", ["a\nb", "a\0b", "/disk ", "\x1b[2J"])
def test_what_xl_would_misunderstand_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="configuration of xl"):
        hosts.xen(replace(DOMAIN, disk=text))


def test_a_domain_of_libvirt() -> None:
    root = ET.fromstring(hosts.libvirt(DOMAIN))
    assert root.findtext("name") == "debian-12"
    assert root.findtext("uuid") == str(DOMAIN.identity)
    source = root.find("devices/disk/source")
    assert source is not None
    assert source.get("file") == DOMAIN.disk


@pytest.mark.skipif(not VALIDATE, reason="there is no virt-xml-validate (libvirt-clients)")
@pytest.mark.parametrize("efi", [False, True])
def test_libvirts_own_schema_has_nothing_against_it(efi: bool, tmp_path: Path) -> None:
    path = tmp_path / "domain.xml"
    path.write_text(hosts.libvirt(replace(DOMAIN, efi=efi, image="a--b<&>:1")))
    done = subprocess.run([str(VALIDATE), path, "domain"], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stderr.strip().endswith(b"validates")
    path.write_text(hosts.libvirt(DOMAIN).replace("<acpi/>", "<acpi2/>"))
    done = subprocess.run([str(VALIDATE), path, "domain"], capture_output=True, check=False)
    assert done.returncode != 0


@pytest.fixture
def stored(tmp_path: Path, tools: Kit, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    """A store with one image, and a kit."""
    layer = tmp_path / "layer"
    layer.write_bytes(b"layer".ljust(4096))
    image = Image(
        "some/image:1",
        "sha256:" + "1" * 64,
        (Layer("sha256:" + "2" * 64, 4096, str(layer)),),
        ImageConfig(),
    )
    monkeypatch.setattr(store, "resolve", lambda _: image)
    monkeypatch.setattr(kit, "find", lambda: tools)


@pytest.mark.usefixtures("stored")
def test_what_is_written_depends_on_nothing_else(tmp_path: Path) -> None:
    contents = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        path = str(folder / "m.cfg")
        files = export.configure("some/image:1", Configuration.XEN, path, make.Request(), "/srv")
        assert [Path(each).name for each in files] == [
            *("m.raw", "m.vmlinuz", "m.initramfs", "m.cfg")
        ]
        contents.append([Path(each).read_bytes() for each in files])
    assert contents[0] == contents[1]
    found = settings(contents[0][-1].decode())
    assert found["kernel"] == "/srv/m.vmlinuz"
    # The kernel is told of the orders that are on the disk beside it.
    disk = re.search(rb"apppot\.disk=([0-9a-f-]{36})", contents[0][0])
    assert disk
    assert f"apppot.disk={disk[1].decode()} console=hvc0" in found["extra"]


@pytest.mark.usefixtures("stored")
def test_a_domain_of_libvirt_needs_a_disk_alone(tmp_path: Path) -> None:
    path = str(tmp_path / "m.xml")
    files = export.configure("some/image:1", Configuration.LIBVIRT, path, make.Request())
    assert files == [str(tmp_path / "m.raw"), path]
    assert str(tmp_path / "m.raw") in Path(path).read_text()


@pytest.mark.usefixtures("stored")
def test_the_disk_does_not_take_the_place_of_the_configuration(tmp_path: Path) -> None:
    path = str(tmp_path / "m.raw")
    with pytest.raises(UsageError, match="the disk's name"):
        export.configure("some/image:1", Configuration.XEN, path, make.Request())
    assert not list(tmp_path.glob("m.*"))
