"""Write an image to a file for other programs, or as a disk that boots."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apppot.cli.options import hostname

if TYPE_CHECKING:
    import argparse

    from apppot.image.bootdisk.make import Request

_FORMATS = ("tar", "oci", "squashfs", "sif", "erofs")
_DISKS = ("raw", "qcow2", "vmdk", "vdi", "vhd", "ova")
_CONFIGURATIONS = ("xen-cfg", "libvirt-xml")
_FIRMWARE = ("bios", "uefi", "both")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("image", metavar="IMAGE", help="NAME[:TAG], a digest, or its beginning")
    parser.add_argument(
        "--output", "-o", metavar="FILE", required=True, help="the file to write; '-': stdout"
    )
    parser.add_argument(
        "--format",
        "-f",
        choices=_FORMATS + _DISKS + _CONFIGURATIONS,
        required=True,
        help="tar: all layers as one archive; oci: as 'save' does; squashfs, sif (Apptainer) and"
        " erofs: all layers as one file system; raw, qcow2, vmdk, vdi, vhd and ova: a disk that"
        " boots; xen-cfg and libvirt-xml: a configuration for xl or libvirt, with such a disk, and"
        " what else it needs, beside it",
    )
    disk = parser.add_argument_group("disks that boot")
    disk.add_argument(
        "--firmware", choices=_FIRMWARE, help="what is to start the disk; default: both"
    )
    disk.add_argument(
        "--size",
        metavar="SIZE",
        help="of the whole disk; default: the smallest. The writable partition grows by itself when"
        " the disk is made larger later",
    )
    disk.add_argument(
        "--payload",
        metavar="FILE",
        help="a script that the machine runs when it starts; then it powers off",
    )
    disk.add_argument(
        "--stay", action="store_true", help="the machine does not power off after its payload"
    )
    disk.add_argument(
        "--ssh-key",
        metavar="FILE",
        help="a public key that may log in as root, if the image has an sshd",
    )
    disk.add_argument("--hostname", type=hostname, metavar="NAME", help="default: apppot")
    disk.add_argument(
        "--host-folder",
        metavar="DIR",
        help="xen-cfg, libvirt-xml: where the files will lie on the hypervisor's host; default:"
        " where they are written",
    )


def main(options: argparse.Namespace) -> int:
    """Write the file."""
    from apppot.agent import terminal
    from apppot.errors import UsageError
    from apppot.image.sizes import human

    if options.format in _CONFIGURATIONS:
        return _configure(options)
    if options.host_folder:
        raise UsageError("--host-folder is for configurations", hint="xen-cfg or libvirt-xml")
    if options.format in _DISKS:
        from apppot.image.bootdisk import export as disks
        from apppot.image.bootdisk.convert import Format as DiskFormat

        form = DiskFormat(options.format)
        if options.output == "-":
            raise UsageError(f"{options.format} is not written to standard output")
        size = disks.export(options.image, form, options.output, _request(options))
    else:
        from apppot.image import export

        _refuse(options)
        size = export.export(options.image, export.Format(options.format), options.output)
    if options.output != "-":
        terminal.tell(f"{options.output}: {human(size)}")
    return 0


def _configure(options: argparse.Namespace) -> int:
    """Write a configuration and what belongs to it."""
    import os

    from apppot.agent import terminal
    from apppot.image.bootdisk import export as disks
    from apppot.image.sizes import human

    form = disks.Configuration(options.format)
    request = _request(options)
    for path in disks.configure(
        options.image, form, options.output, request, options.host_folder or ""
    ):
        terminal.tell(f"{path}: {human(os.path.getsize(path))}")
    return 0


def _request(options: argparse.Namespace) -> Request:
    from apppot.image.bootdisk.make import Firmware, Request, read_key, read_payload
    from apppot.machine.limits import parse_size

    return Request(
        firmware=Firmware(options.firmware or Firmware.BOTH),
        size=parse_size(options.size) if options.size else 0,
        payload=read_payload(options.payload) if options.payload else b"",
        stay=options.stay,
        ssh_key=read_key(options.ssh_key) if options.ssh_key else b"",
        hostname=options.hostname or "apppot",
    )


def _refuse(options: argparse.Namespace) -> None:
    """Raise UsageError for an option that only disks have."""
    from apppot.errors import UsageError

    for name in ("firmware", "size", "payload", "stay", "ssh_key", "hostname"):
        if getattr(options, name):
            raise UsageError(
                f"--{name.replace('_', '-')} is for disks that boot; {options.format} is none",
                hint=f"--format {', '.join(_DISKS)}",
            )
