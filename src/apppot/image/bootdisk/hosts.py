"""Configurations of machines for hypervisors that users start by hand: xl's and libvirt's. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape, quoteattr

from apppot.errors import UsageError

if TYPE_CHECKING:
    import uuid


@dataclass(frozen=True)
class Domain:
    """A machine; `disk`, `kernel` and `initramfs` are paths on the hypervisor's host."""

    name: str
    image: str
    identity: uuid.UUID
    disk: str
    kernel: str = ""
    initramfs: str = ""
    arguments: str = ""
    efi: bool = False
    memory: int = 1024  # MiB
    cpus: int = 1


def xen(domain: Domain) -> str:
    """Return a configuration for `xl create`: PVH, or PV if that is said there."""
    disk = f"format=raw, vdev=xvda, access=rw, script=block, target={domain.disk}"
    return f"""# {_plain(domain.image)}, made by AppPot. To start it: xl create -c THIS-FILE
# As a PV machine: xl create -c THIS-FILE 'type="pv"'
name = {quoted(domain.name)}
type = "pvh"
kernel = {quoted(domain.kernel)}
ramdisk = {quoted(domain.initramfs)}
extra = {quoted(domain.arguments)}
memory = {domain.memory}
vcpus = {domain.cpus}
disk = [{quoted(disk)}]
# A network is the host's matter; with its default bridge:
# vif = [""]
on_poweroff = "destroy"
on_reboot = "restart"
on_crash = "destroy"
"""


def quoted(text: str) -> str:
    """Return a text as a string of xl's configuration; raises UsageError if it can be none."""
    if not text.isprintable() or text != text.strip():
        raise UsageError(f"{text!r} cannot stand in a configuration of xl's")
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def libvirt(domain: Domain) -> str:
    """Return a domain for `virsh define`: KVM, and the network of its user's."""
    if not domain.disk.isprintable():
        raise UsageError(f"{domain.disk!r} cannot stand in a configuration of libvirt's")
    firmware = " firmware='efi'" if domain.efi else ""
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<!-- {_plain(domain.image).replace("--", "- -")}, made by AppPot. To start it:
     virsh create THIS-FILE; virsh console {escape(domain.name)} -->
<domain type='kvm'>
  <name>{escape(domain.name)}</name>
  <uuid>{domain.identity}</uuid>
  <memory unit='MiB'>{domain.memory}</memory>
  <vcpu>{domain.cpus}</vcpu>
  <os{firmware}>
    <type arch='x86_64' machine='q35'>hvm</type>
    <boot dev='hd'/>
  </os>
  <features>
    <acpi/>
    <apic/>
  </features>
  <cpu mode='host-passthrough'/>
  <clock offset='utc'/>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>restart</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' discard='unmap'/>
      <source file={quoteattr(domain.disk)}/>
      <target dev='vda' bus='virtio'/>
    </disk>
    <interface type='user'>
      <model type='virtio'/>
    </interface>
    <serial type='pty'>
      <target port='0'/>
    </serial>
    <console type='pty'>
      <target type='serial' port='0'/>
    </console>
    <rng model='virtio'>
      <backend model='random'>/dev/urandom</backend>
    </rng>
  </devices>
</domain>
"""


def _plain(text: str) -> str:
    return "".join(letter if letter.isprintable() else "?" for letter in text)
