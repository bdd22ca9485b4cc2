"""Write an image as a disk that boots, whole or not at all, and configurations that start it."""

from __future__ import annotations

import os
import re
import uuid
from dataclasses import replace
from enum import StrEnum
from typing import IO, TYPE_CHECKING

from apppot import kit
from apppot.errors import UsageError
from apppot.image import aside, changes, store
from apppot.image.bootdisk import convert, hosts, make, ova, vmdk
from apppot.image.bootdisk.convert import Format

if TYPE_CHECKING:
    from apppot.image.model import Image
    from apppot.kit import Kit


def export(name: str, form: Format, path: str, request: make.Request) -> int:
    """Write a disk with an image to a file; return its size. Raises AppPotError."""
    image = store.resolve(name)
    changes.check_target(path)
    convert.check(form, request.size)  # before the long work
    tools = kit.find()
    with aside.explained(path), aside.whole(path) as file:
        if form is Format.RAW:
            make.make(image, tools, request, file.fileno())
        else:
            _convert(image, tools, request, form, file)
    return os.path.getsize(path)


class Configuration(StrEnum):
    """What a hypervisor's tools read; the disk and what else it needs lie beside it."""

    XEN = "xen-cfg"
    LIBVIRT = "libvirt-xml"


def configure(
    name: str, form: Configuration, path: str, request: make.Request, folder: str = ""
) -> list[str]:
    """Write a configuration, with a raw disk and what else it needs; return the files' names.

    `folder` is where they will lie on the hypervisor's host, if not where they are written. The
    configuration is written last. Raises AppPotError.
    """
    image = store.resolve(name)
    stem = os.path.splitext(path)[0]
    disk, kernel, initramfs = (f"{stem}.{end}" for end in ("raw", "vmlinuz", "initramfs"))
    files = [disk] if form is Configuration.LIBVIRT else [disk, kernel, initramfs]
    if path in files:
        raise UsageError(
            f"{path} is to be the disk's name", hint="end the name of --output in .cfg"
        )
    for each in (*files, path):
        changes.check_target(each)
    tools = kit.find()
    there = os.path.abspath(folder or os.path.dirname(path))
    host = {each: os.path.join(there, os.path.basename(each)) for each in files}
    identities = make.names(image, request)
    domain = hosts.Domain(
        _title(image.name),
        image.name,
        identities.disk,
        disk=host[disk],
        kernel=host.get(kernel, ""),
        initramfs=host.get(initramfs, ""),
        arguments=make.command_line(identities, replace(request, consoles=("hvc0",))),
        efi=request.firmware is make.Firmware.UEFI,
    )
    text = hosts.xen(domain) if form is Configuration.XEN else hosts.libvirt(domain)
    with aside.explained(disk), aside.whole(disk) as file:
        make.make(image, tools, request, file.fileno())
    if form is Configuration.XEN:
        _write(kernel, _read(tools, kit.PC_KERNEL))
        _write(initramfs, _read(tools, kit.AGENT) + _read(tools, kit.KEEPER))
    _write(path, text.encode())
    return [*files, path]


def _read(tools: Kit, name: str) -> bytes:
    with open(tools.file(name), "rb") as file:
        return file.read()


def _write(path: str, content: bytes) -> None:
    with aside.explained(path), aside.whole(path) as file:
        file.write(content)


def _convert(
    image: Image, tools: Kit, request: make.Request, form: Format, target: IO[bytes]
) -> None:
    # VirtualBox takes no two disks with one name, and this may be there in another format.
    identity = uuid.uuid5(make.names(image, request).disk, form)
    with changes.temporary() as raw:
        size = make.make(image, tools, request, raw.fileno())
        if form is Format.VMDK:
            vmdk.write(raw.fileno(), target.write, identity)
        elif form is Format.OVA:
            ova.write(ova.Machine(_title(image.name), size), raw.fileno(), target, identity)
        else:
            convert.convert(raw, target, form, identity)


def _title(name: str) -> str:
    """Return a machine's name for an image's: letters, digits, dots and hyphens.

    An OVA has room for a hundred of them, and ends the disk's name in its own way.
    """
    return re.sub(r"[^A-Za-z0-9.-]+", "-", name)[:80].strip("-.") or "apppot"
