"""Start the real VirtualBox, with its driver, inside QEMU, and an exported appliance in it.

    python -m tests.integration.virtualbox_in_qemu FOLDER [SECONDS]

For a try by hand, as root: Debian's unstable suite is installed into FOLDER (3 GB, its driver is
compiled), and booted. Processors inside processors are slow: VirtualBox's interpreter inside
QEMU's translator reaches the kernel's first message after some three minutes. That message, on the
machine's serial port, is what has to come; it says that VirtualBox's BIOS has found the disk, and
that our boot loader has started the kernel. The payload's result is waited for as long as SECONDS
(1800) allow. Times are printed. FOLDER is kept for the next try.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from apppot.image.bootdisk import export, make
from apppot.image.bootdisk.convert import Format
from tests.integration import xenhost
from tests.integration.test_disk_boots import BUSYBOX, apppot, layer

PACKAGES = (
    "virtualbox",
    "virtualbox-dkms",
    "linux-image-amd64",
    "linux-headers-amd64",
    "busybox-static",
)
MODULES = ("virtio_pci", "virtio_blk", "erofs", "overlay", "vboxdrv")
MACHINE = """export PATH=/usr/bin:/usr/sbin:/bin:/sbin HOME=/root USER=root LOGNAME=root
mount -t tmpfs tmpfs /run; mount -t tmpfs tmpfs /tmp; mkdir -p /dev/shm /root
mount -t tmpfs tmpfs /dev/shm
up() { cut -d ' ' -f 1 /proc/uptime; }
echo "at $(up) s: the driver is $(ls /dev/vboxdrv)"
V="VBoxManage -q"
$V import /test/machine.ova --vsys 0 --vmname try --basefolder /tmp/machines | tail -n 1
$V modifyvm try --memory 256 --uart1 0x3F8 4 --uart-mode1 file /tmp/serial --nic1 none
# Without this, the processor inside does not leave its first instruction, or dies in the kernel.
$V setextradata try VBoxInternal/EM/IemExecutesAll 1
$V startvm try --type headless
echo "at $(up) s: started"
n=0
reached() {
    until grep -aq "$1" /tmp/serial || [ $n -gt LIMIT ]; do n=$((n+1)); sleep 1; done
    grep -aq "$1" /tmp/serial && echo "at $(up) s: RESULT: $2"
}
reached "Linux version" "the kernel runs"
reached "^apppot-result" "the payload has ended"
echo "at $(up) s: the serial port says:"; cat /tmp/serial; echo
tail -n 5 /tmp/machines/try/Logs/VBox.log
sync; poweroff -f
"""


def main(words: list[str]) -> int:
    """Make what is missing in the folder, and start it; 0 if the kernel was seen."""
    if not 1 <= len(words) <= 2:
        print(__doc__, file=sys.stderr)
        return 2
    folder, limit = Path(words[0]), int(words[1]) if len(words) > 1 else 1800
    folder.mkdir(exist_ok=True)
    archive = folder / "packages.tar"
    if not archive.exists():
        old = "--aptopt=Acquire::Check-Valid-Until false"
        aside = folder / "new.tar"
        xenhost.packages("sid", PACKAGES, aside, "--components=main contrib", old, variant="apt")
        aside.rename(archive)
    appliance = _appliance(folder)
    kernel, initramfs, system = (folder / name for name in ("vmlinuz", "initramfs", "system.erofs"))
    script = MACHINE.replace("LIMIT", str(limit)).encode()
    early = xenhost.divide(archive, system, {"test/run": script, "test/machine.ova": appliance})
    xenhost.write_boot(early, MODULES, "/test/run", kernel, initramfs)
    # fmt: off
    command = [
        str(xenhost.QEMU), "-accel", "tcg", "-cpu", "max", "-m", "3072", "-machine", "q35",
        "-nodefaults", "-display", "none", "-serial", "stdio", "-no-reboot",
        "-kernel", str(kernel), "-initrd", str(initramfs),
        "-append", "console=ttyS0 quiet panic=-1",
        "-drive", f"file={system},format=raw,if=virtio,readonly=on",
    ]
    # fmt: on
    seen, began = False, time.monotonic()
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as process:
        assert process.stdout
        for line in process.stdout:
            text = line.decode("utf-8", "replace").rstrip()
            print(f"{time.monotonic() - began:7.1f} {text}", flush=True)
            seen = seen or text.endswith("RESULT: the kernel runs")
    return 0 if seen else 1


def _appliance(folder: Path) -> Path:
    path, store = folder / "machine.ova", folder / "store"
    if not path.exists():
        (folder / "image.tar").write_bytes(
            layer({"bin/busybox": BUSYBOX.read_bytes()}, ("sh", "cat", "chmod", "mktemp", "uname"))
        )
        apppot("import", str(folder / "image.tar"), "small:1", store=store)
        os.environ["APPPOT_STORE"] = str(store)
        early = ("earlyprintk=ttyS0,115200", "loglevel=8", "nokaslr")
        payload = b"#!/bin/sh\necho a payload under VirtualBox\nuname -r\nexit 7\n"
        request = make.Request(payload=payload, consoles=("ttyS0,115200",), arguments=early)
        export.export("small:1", Format.OVA, str(path), request)
    return path


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
