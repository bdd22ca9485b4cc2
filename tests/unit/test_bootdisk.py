"""Disks that boot: each format is read back by other code than wrote it, where there is some."""

from __future__ import annotations

import hashlib
import os
import shutil
import struct
import subprocess
import tarfile
import uuid
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from apppot import kit, paths, process
from apppot.cli import export as cli
from apppot.cli.parser import parse
from apppot.errors import AppPotError, ImageError, KitError, UsageError
from apppot.image.bootdisk import convert, export, fat, gpt, linux, make, orders, ova, pe
from apppot.image.bootdisk.convert import Format
from apppot.image.model import Image, ImageConfig, Layer
from apppot.image.parttable import SECTOR, read_table
from apppot.kit import Kit

MIB = 1 << 20
BOOT_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def bzimage(length: int = 300_000) -> bytes:
    """Return what has a bzImage's header: four sectors of real mode, 40 MiB from 16 MiB on."""
    image = bytearray(os.urandom(1) * length)
    image[0x1F1] = 3
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<QI", image, 0x258, 16 * MIB, 39 * MIB + 5)
    return bytes(image)


@pytest.fixture
def tools(tmp_path: Path) -> Kit:
    """A kit with all that a disk needs; its boot loaders are as long as the real ones may be."""
    found = shutil.which("mke2fs", path=BOOT_PATH)
    if not found:
        pytest.skip("there is no mke2fs")
    folder = tmp_path / "kit"
    contents = {
        kit.PC_KERNEL: bzimage(),
        kit.AGENT: b"070701agent".ljust(1024),
        kit.KEEPER: b"070701keeper".ljust(512),
        kit.BIOS_LOADER: b"\xea".ljust(440, b"\x90"),
        kit.EFI_LOADER: b"\xc3".ljust(1000, b"\x90"),
    }
    for name, content in contents.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    (folder / kit.MKE2FS).parent.mkdir(parents=True, exist_ok=True)
    (folder / kit.MKE2FS).symlink_to(found)
    return Kit(str(folder))


@pytest.fixture
def image(tmp_path: Path) -> Image:
    layers = []
    for number, size in enumerate((5000, 8192, 1)):
        path = tmp_path / f"layer{number}"
        path.write_bytes(bytes([65 + number]) * size)
        layers.append(Layer(f"sha256:{number:064}", size, str(path)))
    config = ImageConfig(env=("A=b",), working_dir="/w", user="me")
    return Image("some/image:1", "sha256:" + "1" * 64, tuple(layers), config)


def built(tmp_path: Path, image: Image, tools: Kit, request: make.Request, name: str) -> Path:
    path = tmp_path / name
    with path.open("xb") as file:
        size = make.make(image, tools, request, file.fileno())
    assert path.stat().st_size == size
    return path


def records(data: bytes) -> list[tuple[int, bytes]]:
    found, at = [], 0
    while at < len(data):
        tag, zero, length = struct.unpack_from("<HHI", data, at)
        assert zero == 0
        found.append((tag, data[at + 8 : at + 8 + length]))
        at += 8 + length
    assert at == len(data)
    return found


def test_a_disk_has_its_parts_where_its_table_says(
    tmp_path: Path, image: Image, tools: Kit
) -> None:
    request = make.Request(payload=b"#!/bin/sh\n", hostname="pot")
    path = built(tmp_path, image, tools, request, "a.raw")
    with path.open("rb") as file:
        table = read_table(file, path.stat().st_size, "a.raw")
    assert table
    assert table.form == "GPT"
    _, esp, config, layers, data = table.partitions
    content = path.read_bytes()
    assert content[layers.offset :][:5000] == b"A" * 5000
    assert content[layers.offset + 8192 :][:8192] == b"B" * 8192
    assert content[layers.offset + 16384 :][:2] == b"C\0"
    assert content[data.offset + 1080 :][:2] == b"\x53\xef"  # ext4's magic number
    assert data.size == make.SMALLEST_DATA
    header = content[config.offset :][:16]
    assert header[:8] == orders.MAGIC
    found = dict(records(content[config.offset + 16 :][: int.from_bytes(header[8:], "little")]))
    assert found[6] == b"#!/bin/sh\n"
    machine = records(found[1])
    assert (1, b"pot") in machine
    devices = [value for tag, value in machine if tag == 2]
    assert len(devices) == 3
    assert [value for tag, value in machine if tag == 16] == [
        (8192).to_bytes(8, "little"),
        (16384).to_bytes(8, "little"),
    ]
    own = uuid.UUID(bytes_le=content[2 * SECTOR + 3 * 128 + 16 :][:16])
    assert devices[0] == f"PARTUUID={own}".encode()
    assert content[esp.offset + 54 :][:8] == b"FAT16   "


def test_the_bios_loader_finds_kernel_and_file_system(
    tmp_path: Path, image: Image, tools: Kit
) -> None:
    content = built(tmp_path, image, tools, make.Request(), "a.raw").read_bytes()
    table = struct.unpack_from("<Q", content, 432)[0] * SECTOR
    memory: dict[int, bytes] = {}
    for row in range(31):
        sector, count, address = struct.unpack_from("<QII", content, table + row * 16)
        if not count:
            break
        memory[address] = content[sector * SECTOR :][: count * SECTOR]
    kernel = (Path(tools.path) / kit.PC_KERNEL).read_bytes()
    assert list(memory) == [0x10000, 0x100000, 56 * MIB]
    assert memory[0x100000][: len(kernel) - 2048] == kernel[2048:]
    assert memory[56 * MIB].startswith(b"070701agent".ljust(1024) + b"070701keeper")
    setup = memory[0x10000]
    assert setup[0x218:0x220] == struct.pack("<II", 56 * MIB, 1536)
    line = struct.unpack_from("<I", setup, 0x228)[0] - 0x10000
    assert setup[line:].startswith(b"apppot.channel=exec:/keeper apppot.disk=")
    assert setup[:0x1F1] == kernel[:0x1F1]


def test_uefi_finds_a_program_with_the_same_kernel(
    tmp_path: Path, image: Image, tools: Kit
) -> None:
    path = built(tmp_path, image, tools, make.Request(firmware=make.Firmware.UEFI), "a.raw")
    assert path.read_bytes()[:440] == bytes(440)
    if not shutil.which("mtype"):
        pytest.skip("there is no mtools, to read the FAT file system with")
    done = subprocess.run(
        ["mtype", "-i", f"{path}@@1M", "::/EFI/BOOT/BOOTX64.EFI"], capture_output=True, check=True
    )
    assert done.stdout[:2] == b"MZ"
    assert (Path(tools.path) / kit.PC_KERNEL).read_bytes() in done.stdout


def test_a_fat_file_system_is_sound(tmp_path: Path) -> None:
    checker = shutil.which("fsck.fat", path=BOOT_PATH)
    if not checker:
        pytest.skip("there is no fsck.fat (dosfstools)")
    for size in (1, 2048, 2049, 14 * MIB + 7, 60 * MIB):
        volume = fat.make(("EFI", "BOOT", "BOOTX64.EFI"), size, "APPPOT", 1)
        path = tmp_path / "volume"
        with path.open("wb") as file:
            file.truncate(volume.sectors * SECTOR)
            file.write(volume.head)
        done = subprocess.run([checker, "-n", path], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout
    with pytest.raises(ValueError, match="too large"):
        fat.make(("A", "B"), 200 * MIB, "APPPOT", 1)


def test_both_copies_of_a_table_are_read(tmp_path: Path) -> None:
    entries = [gpt.Entry(gpt.LINUX, uuid.UUID(int=2), "a", 64, 10)]
    sectors = 4096
    disk = bytearray(sectors * SECTOR)
    head = gpt.head(uuid.UUID(int=1), entries, sectors, b"code")
    tail = gpt.tail(uuid.UUID(int=1), entries, sectors)
    disk[: len(head)] = head
    disk[-len(tail) :] = tail
    assert disk[:4] == b"code"
    path = tmp_path / "disk"
    for damage in (None, SECTOR + 20, 2 * SECTOR + 5):
        copy = bytearray(disk)
        if damage:
            copy[damage] ^= 1
        path.write_bytes(copy)
        with path.open("rb") as file:
            table = read_table(file, len(disk), "disk")
        assert table
        assert [(each.offset, each.size) for each in table.partitions] == [(64 * 512, 5120)]
    with pytest.raises(ValueError, match="boot code"):
        gpt.head(uuid.UUID(int=1), entries, sectors, bytes(441))


def test_a_program_has_its_sections_where_its_headers_say() -> None:
    program = pe.make(b"\xc3" * 700, {".linux": b"L" * 5000, ".cmdline": b"C" * 3})
    data = program.content
    start = struct.unpack_from("<I", data, 60)[0]
    assert data[start : start + 4] == b"PE\0\0"
    count, optional = struct.unpack_from("<H12xH", data, start + 6)
    found = {}
    for number in range(count):
        name, length, address, _, place = struct.unpack_from(
            "<8sIIII", data, start + 24 + optional + 40 * number
        )
        assert address % 4096 == 0
        found[name.rstrip(b"\0").decode()] = data[place : place + length]
        assert program.places[name.rstrip(b"\0").decode()] == place
        end = address + length
    assert found == {".text": b"\xc3" * 700, ".linux": b"L" * 5000, ".cmdline": b"CCC"}
    entry, image = struct.unpack_from("<I36xI", data, start + 24 + 16)
    assert entry == 4096
    assert image >= end


def test_what_is_no_kernel_is_refused(tmp_path: Path, image: Image, tools: Kit) -> None:
    (Path(tools.path) / kit.PC_KERNEL).write_bytes(b"\x7fELF" * 1000)
    with pytest.raises(ImageError, match="not a bzImage"):
        built(tmp_path, image, tools, make.Request(), "a.raw")
    (Path(tools.path) / kit.PC_KERNEL).unlink()
    with pytest.raises(KitError, match=r"has no boot/bzImage"):
        built(tmp_path, image, tools, make.Request(), "b.raw")
    with pytest.raises(ImageError, match="too long"):
        linux.real_mode(linux.parse(bzimage()), b"x" * 2048, 1)


def test_the_same_inputs_give_the_same_disk(tmp_path: Path, image: Image, tools: Kit) -> None:
    first = built(tmp_path, image, tools, make.Request(), "a.raw").read_bytes()
    os.utime(Path(tools.path) / kit.PC_KERNEL, (1, 1))
    assert built(tmp_path, image, tools, make.Request(), "b.raw").read_bytes() == first
    other = built(tmp_path, image, tools, make.Request(hostname="x"), "c.raw").read_bytes()
    assert other[SECTOR : 2 * SECTOR] != first[SECTOR : 2 * SECTOR]


def test_a_size_is_kept_or_refused(tmp_path: Path, image: Image, tools: Kit) -> None:
    path = built(tmp_path, image, tools, make.Request(size=200 * MIB), "a.raw")
    assert path.stat().st_size == 200 * MIB
    with path.open("rb") as file:
        table = read_table(file, 200 * MIB, "a.raw")
    assert table
    assert table.partitions[-1].offset + table.partitions[-1].size == 199 * MIB
    with pytest.raises(UsageError, match="at least"):
        built(tmp_path, image, tools, make.Request(size=64 * MIB), "b.raw")


@pytest.mark.parametrize("form", [form for form in Format if form is not Format.RAW])
def test_every_format_has_the_same_disk_and_the_same_bytes_each_time(
    form: Format, tmp_path: Path, image: Image, tools: Kit, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not shutil.which("qemu-img"):
        pytest.skip("there is no qemu-img")
    monkeypatch.setattr("apppot.image.store.resolve", lambda _: image)
    monkeypatch.setattr(kit, "find", lambda: tools)
    first, second = tmp_path / "first", tmp_path / "second"
    for path in (first, second):
        assert export.export("x", form, str(path), make.Request()) == path.stat().st_size
    assert first.read_bytes() == second.read_bytes()
    plain = built(tmp_path, image, tools, make.Request(), "plain")
    disk = first
    if form is Format.OVA:
        with tarfile.open(first) as archive:
            names = archive.getnames()
            assert names == ["some-image-1.ovf", "some-image-1.mf", "some-image-1-disk1.vmdk"]
            for name in names:
                member = archive.extractfile(name)
                assert member
                (tmp_path / name).write_bytes(member.read())
        for line in (tmp_path / names[1]).read_text().splitlines():
            name, _, digest = line.removeprefix("SHA256(").partition(")= ")
            assert hashlib.sha256((tmp_path / name).read_bytes()).hexdigest() == digest
        disk = tmp_path / names[2]
    kind = {"vhd": "vpc", "ova": "vmdk"}.get(form, form)
    subprocess.run(["qemu-img", "compare", "-q", "-f", "raw", "-F", kind, plain, disk], check=True)


def test_a_machines_description_says_what_its_archive_has() -> None:
    text = ova.describe(ova.Machine("a-b", 1 << 30), "a-b-disk1.vmdk", 77)
    space = "{http://schemas.dmtf.org/ovf/envelope/1}"
    file = ET.fromstring(text).find(f"{space}References/{space}File")
    assert file is not None
    assert file.get(f"{space}size") == "77"
    assert file.get(f"{space}href") == "a-b-disk1.vmdk"


def test_without_qemu_img_the_error_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(process, "CLEAN_PATH", "/nonexistent")
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(AppPotError, match="qemu-img") as caught:
        convert.program()
    assert "qemu-utils" in caught.value.hint


@pytest.mark.parametrize("form", [Format.RAW, Format.VMDK, Format.OVA])
def test_qemu_img_is_not_asked_for_where_it_is_not_needed(
    form: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "CLEAN_PATH", "/nonexistent")
    monkeypatch.setenv("PATH", "/nonexistent")
    convert.check(form, 0)


def test_a_size_beyond_a_vhd_is_refused_at_once(
    tmp_path: Path, image: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("apppot.image.store.resolve", lambda _: image)
    monkeypatch.setattr(kit, "find", lambda: pytest.fail("too late"))
    monkeypatch.setattr(convert, "program", lambda: "/usr/bin/qemu-img")
    target = str(tmp_path / "disk")
    request = make.Request(size=(2040 << 30) + 1)
    with pytest.raises(UsageError, match="a VHD has at most 2040G"):
        export.export("x", Format.VHD, target, request)
    for form, size in ((Format.VHD, 2040 << 30), (Format.QCOW2, 3 << 40), (Format.VMDK, 3 << 40)):
        convert.check(form, size)


def test_a_machines_name_has_room_in_its_archive() -> None:
    name = export._title("registry.example.org/" + "long/" * 40 + "name:tag")
    assert len(name) <= 80
    assert name[-1].isalnum()
    ova._front(ova.Machine(name, 1 << 30), f"{name}-disk1.vmdk", 77, "0" * 64)


def test_options_of_disks_are_refused_elsewhere() -> None:
    _, options = parse(["export", "x", "-f", "tar", "-o", "y", "--size", "1G"])
    with pytest.raises(UsageError, match="--size is for disks"):
        cli.main(options)


def test_a_payload_has_to_be_a_script(tmp_path: Path) -> None:
    path = tmp_path / "payload"
    path.write_bytes(b"#!/bin/sh\n")
    assert make.read_payload(str(path)) == b"#!/bin/sh\n"
    path.write_bytes(b"echo\n")
    with pytest.raises(UsageError, match="not a script"):
        make.read_payload(str(path))
    path.write_bytes(b"#!" + bytes(make.LARGEST_PAYLOAD))
    with pytest.raises(UsageError, match="bytes"):
        make.read_payload(str(path))
    with pytest.raises(UsageError, match="cannot read"):
        make.read_payload(str(tmp_path / "none"))


def test_an_ssh_key_has_to_be_a_public_one(tmp_path: Path) -> None:
    path = tmp_path / "key"
    path.write_bytes(b"ssh-ed25519 AAAAC3NzaC1l me@here\n")
    assert make.read_key(str(path)) == b"ssh-ed25519 AAAAC3NzaC1l me@here"
    for text in (b"", b"-----BEGIN OPENSSH PRIVATE KEY-----\n", b"ssh-rsa AAAA\nssh-rsa BBBB\n"):
        path.write_bytes(text)
        with pytest.raises(UsageError, match="not an SSH public key"):
            make.read_key(str(path))


def test_the_limits_of_python_and_c_are_the_same() -> None:
    guest = Path(paths.recipes_dir()) / "guest"
    assert f"USERDATA_MAX = {make.LARGEST_PAYLOAD}" in (guest / "userdata.h").read_text()
    assert r'"APPPOT\0\2"' in (guest / "orders.h").read_text()
