"""A Xen host inside QEMU: Debian's hypervisor, kernel and tools, and files of the test's.

The privileged domain's system is one read-only EROFS disk with memory above it. Nothing is
installed on this computer, and no root is needed.
"""

from __future__ import annotations

import gzip
import io
import lzma
import os
import re
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from apppot import kit
from apppot.image import debsources

if TYPE_CHECKING:
    from collections.abc import Iterator

QEMU = shutil.which("qemu-system-x86_64")
_UNWANTED = re.compile(
    r"usr/share/(doc|man|locale|info|bash-completion|zoneinfo)/|usr/include/|usr/src/|boot/|"
    r"(usr/)?lib/modules/|var/lib/dpkg/|var/cache/|var/lib/apt/"
)
_TOOLS = (
    "python3-minimal",
    "python3",
    "busybox-static",
    "bash",
    "coreutils",
    "util-linux",
    "mount",
)
_MORE = ("bsdutils", "sed", "grep", "mawk", "linux-image-amd64")
_MODULES = ("crc32c_generic", "virtio_pci", "virtio_blk", "erofs", "overlay", "loop")
_XEN_MODULES = ("xen-privcmd", "xenfs", "xen-evtchn", "xen-gntdev", "xen-gntalloc", "xen-blkback")
# What the processor of QEMU's translator cannot show to Xen: supervisor's access prevention.
_PROCESSOR = "max,-smap,-xsave"

_INIT = """#!/bin/busybox sh
/bin/busybox --install -s /bin
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs dev /dev
for m in MODULES; do insmod /modules/$m.ko; done
mount -t tmpfs tmpfs /above; mkdir /above/upper /above/work /above/lower
mount -t erofs -o ro /dev/vda /above/lower
mount -t overlay -o lowerdir=/above/lower,upperdir=/above/upper,workdir=/above/work host /host
for d in proc sys dev; do mount --move /$d /host/$d; done
exec switch_root /host /bin/busybox sh SCRIPT
"""
_DOM0 = """export PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root
mount -t tmpfs tmpfs /run; mount -t tmpfs tmpfs /tmp; mkdir -p /dev/shm /dev/pts
mount -t devpts devpts /dev/pts; mount -t tmpfs tmpfs /dev/shm
mount -t xenfs xenfs /proc/xen
mkdir -p /usr/local/bin; busybox --install -s /usr/local/bin
[ -e /bin/sh ] || busybox ln -s bash /bin/sh
mkdir -p /run/xen /var/log/xen /run/lock; rm -rf /var/run /var/lock
busybox ln -s /run /var/run; busybox ln -s /run/lock /var/lock
busybox ln -s /proc/self/fd /dev/fd; busybox ln -s fd/0 /dev/stdin
b=$(ls -d /usr/lib/xen-4.*/bin)
xenstored=$(ls $b/xenstored /usr/sbin/xenstored 2>/dev/null | head -n 1)
$xenstored --pid-file /run/xenstored.pid
until xenstore-read / >/dev/null 2>&1; do sleep 0.1; done
$b/xen-init-dom0
xenconsoled=$(ls $b/xenconsoled /usr/sbin/xenconsoled 2>/dev/null | head -n 1)
$xenconsoled --log=guest --log-dir=/var/log/xen
echo "xen host: up after $(cut -d ' ' -f 1 /proc/uptime) s"
sh /test/run </dev/null
echo "xen host: status $?"
sync; poweroff -f
"""


@dataclass(frozen=True)
class Host:
    """The files that QEMU starts."""

    hypervisor: Path
    kernel: Path
    initramfs: Path
    system: Path


def obstacle() -> str:
    """Return why there can be no such host here, or ''."""
    if not QEMU:
        return "there is no qemu-system-x86_64"
    if not shutil.which("mmdebstrap"):
        return "there is no mmdebstrap"
    if not debsources.host_targets():
        return "this computer's apt has no mirror"
    return ""


def suite() -> str:
    """Return the name of this computer's Debian."""
    text = Path("/etc/os-release").read_text()
    found = re.search(r"^VERSION_CODENAME=\"?([a-z]+)", text, re.MULTILINE)
    return found[1] if found else "bookworm"


def packages(
    release: str,
    names: tuple[str, ...],
    target: Path,
    *options: str,
    variant: str = "extract",
) -> None:
    """Unpack Debian's packages, and what they depend on, into an archive.

    With another variant they are installed. Raises CalledProcessError.
    """
    mirror = next(t.uri for t in debsources.host_targets() if t.label == "Debian")
    words = ["mmdebstrap", "--quiet", f"--variant={variant}", f"--include={','.join(names)}"]
    words += [*options, release, str(target), mirror]
    subprocess.run(words, check=True, capture_output=True, text=True)


def build(folder: Path, files: dict[str, bytes | Path]) -> Host:
    """Make a host with the test's files; `test/run` is what it runs."""
    archive = folder / "packages.tar"
    if not archive.exists():
        version = _version()
        names = (f"xen-utils-{version}", f"xen-hypervisor-{version}-amd64", *_TOOLS, *_MORE)
        packages(suite(), names, archive)
    host = Host(*(folder / name for name in ("xen", "vmlinuz", "initramfs", "system.erofs")))
    found = divide(archive, host.system, {"test/dom0": _DOM0.encode(), **files})
    hypervisor = next(name for name in found if re.fullmatch(r"boot/xen-[0-9.]+-amd64\.gz", name))
    host.hypervisor.write_bytes(gzip.decompress(found[hypervisor]))
    write_boot(found, _MODULES + _XEN_MODULES, "/test/dom0", host.kernel, host.initramfs)
    return host


def divide(archive: Path, system: Path, files: dict[str, bytes | Path]) -> dict[str, bytes]:
    """Make a read-only file system of packages and files; return what is needed before it.

    That is what was in /boot, kernel modules, and busybox.
    """
    early: dict[str, bytes] = {}
    tops = set()
    tar = system.with_suffix(".tar")
    with tarfile.open(archive) as source, tarfile.open(tar, "w") as target:
        for member in source:
            name = member.name.removeprefix("./")
            tops.add(name.partition("/")[0])
            content = source.extractfile(member) if member.isreg() else None
            if content and re.search(r"^boot/|lib/modules/.*\.ko(\.xz)?$|bin/busybox$", name):
                early[name] = content.read()
                content.seek(0)
            if not _UNWANTED.match(name):
                target.addfile(member, content)
        for name in {"bin", "sbin", "lib", "lib64"} - tops:  # packages from Debian 13 on have none
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, f"usr/{name}"
            target.addfile(link)
        for name, given in files.items():
            _add(target, name, given)
    system.unlink(missing_ok=True)
    mkfs = kit.find().file("bin/mkfs.erofs")
    subprocess.run([mkfs, "--quiet", "--tar=f", system, tar], check=True)
    tar.unlink()
    return early


def write_boot(
    early: dict[str, bytes], modules: tuple[str, ...], script: str, kernel: Path, initramfs: Path
) -> None:
    """Write the kernel, and an initramfs that starts a script of the file system's."""
    found = {_module_name(n): _plain(n, content) for n, content in early.items() if ".ko" in n}
    order = _closure(found, modules)
    init = _INIT.replace("MODULES", " ".join(order)).replace("SCRIPT", script)
    files = {
        "init": init.encode(),
        "bin/busybox": next(early[name] for name in early if name.endswith("bin/busybox")),
        **{f"modules/{name}.ko": found[name] for name in order},
    }
    folders = ("bin", "dev", "proc", "sys", "modules", "above", "host")
    initramfs.write_bytes(gzip.compress(b"".join(_cpio(folders, files)), 1))
    kernel.write_bytes(next(early[name] for name in early if name.startswith("boot/vmlinuz-")))


def run(host: Host, *options: str, timeout: float = 300, memory: int = 2048) -> str:
    """Start the host and return all that it says."""
    share = f"{memory - 512}M"
    # fmt: off
    words = [
        str(QEMU), "-accel", "tcg", "-cpu", _PROCESSOR, "-m", str(memory), "-machine", "q35",
        "-nodefaults", "-nographic", "-serial", "stdio", "-no-reboot",
        "-kernel", str(host.hypervisor),
        "-append", f"console=com1 com1=115200,8n1 dom0_mem={share},max:{share} loglvl=error",
        "-initrd", f"{host.kernel} console=hvc0 quiet,{host.initramfs}",
        "-drive", f"file={host.system},format=raw,if=virtio,readonly=on", *options,
    ]
    # fmt: on
    done = subprocess.run(
        words, stdin=subprocess.DEVNULL, capture_output=True, check=False, timeout=timeout
    )
    text = done.stdout.decode("utf-8", "replace").replace("\r", "")
    assert done.returncode == 0, done.stderr.decode() + text[-4000:]
    return text


def _version() -> str:
    done = subprocess.run(
        ["apt-cache", "search", "--names-only", "^xen-hypervisor-[0-9.]+-amd64$"],
        capture_output=True,
        text=True,
        check=True,
    )
    found: list[str] = re.findall(r"^xen-hypervisor-([0-9.]+)-amd64", done.stdout, re.MULTILINE)
    return max(found)


def _module_name(path: str) -> str:
    return os.path.basename(path).partition(".ko")[0].replace("-", "_")


def _plain(name: str, content: bytes) -> bytes:
    return lzma.decompress(content) if name.endswith(".xz") else content


def _closure(modules: dict[str, bytes], names: tuple[str, ...]) -> list[str]:
    """Return modules with those that they need, in the order in which they are loaded."""
    order: list[str] = []

    def add(name: str) -> None:
        content = modules.get(name)
        if content is None or name in order:  # built in, or loaded
            return
        needed = re.search(rb"\0depends=([^\0]*)\0", content)
        for other in needed[1].decode().split(",") if needed else ():
            add(other.replace("-", "_"))
        order.append(name)

    for name in names:
        add(name.replace("-", "_"))
    return order


def _cpio(folders: tuple[str, ...], files: dict[str, bytes]) -> Iterator[bytes]:
    """Yield an archive of the form `newc`."""
    entries = [(name, 0o040755, b"") for name in folders]
    entries += [(name, 0o100755, content) for name, content in files.items()]
    for number, (name, mode, content) in enumerate([*entries, ("TRAILER!!!", 0, b"")]):
        numbers = (number + 1, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        head = b"070701" + b"".join(b"%08x" % each for each in numbers) + name.encode() + b"\0"
        yield head + bytes(-len(head) % 4) + content + bytes(-len(content) % 4)


def _add(archive: tarfile.TarFile, name: str, content: bytes | Path) -> None:
    if isinstance(content, Path):
        archive.add(content, name)
        return
    info = tarfile.TarInfo(name)
    info.size, info.mode = len(content), 0o755
    archive.addfile(info, io.BytesIO(content))
