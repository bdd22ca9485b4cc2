"""Exported disks really boot: by BIOS and UEFI, from the disks and networks that clouds offer."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from apppot import kit
from apppot.errors import KitError

if TYPE_CHECKING:
    from collections.abc import Iterator

QEMU = shutil.which("qemu-system-x86_64")
BUSYBOX = Path("/bin/busybox")
OVMF = next(
    (
        (code, code.replace("CODE", "VARS"))
        for code in ("/usr/share/OVMF/OVMF_CODE_4M.fd", "/usr/share/OVMF/OVMF_CODE.fd")
        if os.path.exists(code)
    ),
    None,
)
PAYLOAD = b"""#!/bin/sh
echo "to standard output"
echo "to standard error" >&2
echo "network: $(ip -4 -o addr show eth0 | awk '{print $4}')"
echo "room: $(df -m / | awk 'NR == 2 {print $2}')"
cat /etc/mark
echo more >> /etc/mark
exit 7
"""


def lacking(*files: str) -> str:
    """Return what a boot under QEMU needs and is not here: files of the kit, or programs."""
    try:
        for name in files:
            kit.find().file(name)
    except KitError as error:
        return error.message
    if not QEMU:
        return "there is no qemu-system-x86_64"
    return "" if BUSYBOX.exists() else "there is no /bin/busybox (busybox-static)"


_LACKING = lacking(kit.PC_KERNEL, kit.KEEPER, kit.BIOS_LOADER, kit.EFI_LOADER)
pytestmark = [
    pytest.mark.skipif(bool(_LACKING), reason=_LACKING),
    pytest.mark.timeout(600),
]


def apppot(*words: str, store: Path) -> None:
    environment = {**os.environ, "APPPOT_STORE": str(store)}
    done = subprocess.run(
        [sys.executable, "-m", "apppot", *words],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def layer(files: dict[str, bytes], links: tuple[str, ...] = ()) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name in ("bin", "etc", "tmp", "dev", "proc", "sys", "run", "root"):
            info = tarfile.TarInfo(name)
            info.type, info.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(info)
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size, info.mode = len(content), 0o755
            archive.addfile(info, io.BytesIO(content))
        for name in links:
            info = tarfile.TarInfo(f"bin/{name}")
            info.type, info.linkname = tarfile.SYMTYPE, "busybox"
            archive.addfile(info)
    return out.getvalue()


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one small image."""
    folder = tmp_path_factory.mktemp("disks")
    tools = ("sh", "cat", "ip", "awk", "df", "mktemp", "chmod", "mkdir", "grep", "sleep")
    files = {"bin/busybox": BUSYBOX.read_bytes(), "etc/mark": b"mark\n", "bin/sshd": b"#!/bin/sh\n"}
    (folder / "image.tar").write_bytes(layer(files, tools))
    apppot("import", str(folder / "image.tar"), "small:1", store=folder / "store")
    return folder / "store"


@pytest.fixture(scope="module")
def disk(store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("disk")
    (folder / "payload").write_bytes(PAYLOAD)
    path = folder / "disk.raw"
    words = ("export", "small:1", "--format", "raw", "--output", str(path))
    apppot(*words, "--payload", str(folder / "payload"), store=store)
    yield path
    path.unlink()


def boot(
    disk: Path,
    *options: str,
    firmware: str = "bios",
    snapshot: bool = True,
    form: str = "raw",
) -> str:
    """Return what the machine says on its serial port."""
    words = [str(QEMU), "-accel", "tcg", "-m", "256", "-nodefaults", "-display", "none"]
    words += ["-serial", "stdio", "-no-reboot", "-monitor", "none"]
    if snapshot:
        words.append("-snapshot")
    if firmware == "uefi":
        if not OVMF:
            pytest.skip("there is no OVMF (ovmf)")
        for number, name in enumerate(OVMF):
            words += ["-drive", f"if=pflash,unit={number},format=raw,readonly=on,file={name}"]
        words += ["-machine", "q35"]
    words += ["-drive", f"file={disk},format={form},if=none,id=disk", *options]
    done = subprocess.run(
        words, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout.decode("utf-8", "replace").replace("\r", "")


def result(text: str) -> dict[str, Any]:
    found = re.search(r"^apppot-result (\{.*\})$", text, re.MULTILINE)
    assert found, text[-2000:]
    content = json.loads(found[1])
    assert isinstance(content, dict)
    return content


MACHINES = {
    "virtio cloud": ("bios", "-device", "virtio-blk-pci,drive=disk", "virtio-net-pci"),
    "VirtualBox": (
        *("bios", "-device", "ahci,id=sata", "-device", "ide-hd,drive=disk,bus=sata.0"),
        "e1000",
    ),
    "EC2 Nitro": ("uefi", "-device", "nvme,drive=disk,serial=1", "virtio-net-pci"),
    "VMware": (
        *("bios", "-device", "pvscsi,id=scsi", "-device", "scsi-hd,drive=disk,bus=scsi.0"),
        "vmxnet3",
    ),
}


@pytest.mark.parametrize("machine", MACHINES)
def test_the_same_disk_runs_its_payload_everywhere(machine: str, disk: Path) -> None:
    firmware, *options, card = MACHINES[machine]
    network = ("-netdev", "user,id=net,restrict=on", "-device", f"{card},netdev=net")
    text = boot(disk, *options, *network, firmware=firmware)
    found = result(text)
    assert found["status"] == 7
    assert found["signal"] is None
    assert found["failure"] is None
    for line in ("to standard output", "to standard error", "network: 10.0.2.15/24", "mark"):
        assert f"\n{line}\n" in text


def test_a_compressed_disk_boots(store: Path, tmp_path: Path) -> None:
    (tmp_path / "payload").write_bytes(PAYLOAD)
    path = tmp_path / "disk.vmdk"
    words = ("export", "small:1", "--format", "vmdk", "--output", str(path), "--size", "40G")
    apppot(*words, "--payload", str(tmp_path / "payload"), store=store)
    text = boot(path, *MACHINES["VirtualBox"][1:-1], form="vmdk")
    assert result(text)["status"] == 7
    assert int(re.findall(r"^room: (\d+)$", text, re.MULTILINE)[0]) > 38_000


def test_the_writable_partition_grows_and_keeps_what_was_written(
    disk: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy.raw"
    subprocess.run(["cp", "--sparse=always", disk, copy], check=True)
    virtio = ("-device", "virtio-blk-pci,drive=disk")
    rooms = []
    for boots, size in enumerate((0, 1 << 30, 1 << 30)):
        if size:
            os.truncate(copy, size)
        text = boot(copy, *virtio, snapshot=False)
        assert result(text)["status"] == 7
        assert "\nmark\n" + "more\n" * boots + "\napppot-result" in text
        rooms.append(int(re.findall(r"^room: (\d+)$", text, re.MULTILINE)[0]))
    assert rooms[0] < 64
    assert rooms[1] > 500
    assert rooms[2] == rooms[1]
    copy.unlink()


def seed(folder: Path, label: str, name: str, content: bytes) -> Path:
    """Return a FAT volume with a file."""
    formatter = shutil.which("mkfs.fat", path="/usr/sbin:/sbin:/usr/bin")
    if not formatter or not shutil.which("mcopy"):
        pytest.skip("there is no mkfs.fat or no mcopy (dosfstools, mtools)")
    path, source = folder / "seed", folder / "source"
    path.write_bytes(bytes(1 << 20))
    source.write_bytes(content)
    subprocess.run([formatter, "-n", label, path], check=True, capture_output=True)
    folders = name.split("/")[:-1]
    for depth in range(len(folders)):
        made = "::/" + "/".join(folders[: depth + 1])
        subprocess.run(["mmd", "-i", path, made], check=True)
    subprocess.run(["mcopy", "-i", path, source, f"::/{name}"], check=True)
    return path


@pytest.mark.parametrize(
    ("label", "name"), [("CIDATA", "user-data"), ("config-2", "openstack/latest/user_data")]
)
def test_an_instances_own_payload_takes_the_place_of_the_disks(
    label: str, name: str, disk: Path, tmp_path: Path
) -> None:
    volume = seed(tmp_path, label, name, b"#!/bin/sh\necho instance; kill -9 $$\n")
    text = boot(
        *(disk, "-device", "virtio-blk-pci,drive=disk"),
        *("-drive", f"file={volume},format=raw,if=none,id=seed"),
        *("-device", "virtio-blk-pci,drive=seed"),
    )
    found = result(text)
    assert found["status"] == 137
    assert found["signal"] == 9
    assert "\ninstance\n" in text
    assert "to standard output" not in text


SERVICE = """
import sys
head = b""
while not head.endswith(b"\\r\\n\\r\\n"):
    byte = sys.stdin.buffer.read(1)
    if not byte:
        sys.exit(1)
    head += byte
method, path, _ = head.split(b" ", 2)
token = b"X-aws-ec2-metadata-token: secret-token=" in head
pages = {
    b"/latest/user-data": b"#!/bin/sh\\n"
    b"echo from the cloud; sleep 1; cat /root/.ssh/authorized_keys\\n",
    b"/latest/meta-data/public-keys/0/openssh-key": b"ssh-ed25519 AAAA owner\\n",
}
body, status = b"", b"404 Not Found"
if method == b"PUT" and path == b"/latest/api/token" and b"token-ttl-seconds" in head:
    body, status = b"secret-token=", b"200 OK"
elif method == b"GET" and not token:
    status = b"401 Unauthorized"
elif method == b"GET" and path in pages:
    body, status = pages[path], b"200 OK"
out = sys.stdout.buffer
out.write(b"HTTP/1.1 %s\\r\\nContent-Length: %d\\r\\n\\r\\n%s" % (status, len(body), body))
"""


def test_the_metadata_service_gives_a_payload_and_a_key(disk: Path, tmp_path: Path) -> None:
    service = tmp_path / "service.py"
    service.write_text(SERVICE)
    forward = f"guestfwd=tcp:169.254.169.254:80-cmd:{sys.executable} {service}"
    network = f"user,id=net,restrict=on,net=169.254.169.0/24,dhcpstart=169.254.169.15,{forward}"
    text = boot(
        *(disk, "-device", "nvme,drive=disk,serial=1", "-netdev", network),
        *("-device", "virtio-net-pci,netdev=net", "-smbios", "type=1,manufacturer=Amazon EC2"),
    )
    assert result(text)["status"] == 0
    assert "\nfrom the cloud\nssh-ed25519 AAAA owner\n" in text
