"""Write an OVA: a disk with the description of a machine that boots it (OVF 1.0)."""

from __future__ import annotations

import hashlib
import io
import os
import tarfile
from dataclasses import dataclass
from typing import IO
from xml.sax.saxutils import quoteattr

_SPACES = (
    'xmlns="http://schemas.dmtf.org/ovf/envelope/1"'
    ' xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"'
    ' xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"'
    ' xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData"'
)
_STREAM = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"
_LINUX_64 = 101
_TIME = 1767225600


@dataclass(frozen=True)
class Machine:
    """What the description asks for."""

    name: str
    capacity: int  # of the disk, in bytes
    memory: int = 1024  # MiB
    cpus: int = 1


def write(machine: Machine, disk: IO[bytes], target: IO[bytes]) -> None:
    """Write the archive of the VMDK file `disk`; the same inputs give the same bytes."""
    name = f"{machine.name}-disk1.vmdk"
    size = os.fstat(disk.fileno()).st_size
    text = describe(machine, name, size).encode()
    with open(f"/proc/self/fd/{disk.fileno()}", "rb") as again:
        digest = hashlib.file_digest(again, "sha256").hexdigest()
    sums = (
        f"SHA256({machine.name}.ovf)= {hashlib.sha256(text).hexdigest()}\n"
        f"SHA256({name})= {digest}\n"
    ).encode()
    with tarfile.open(fileobj=target, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for member, content in ((f"{machine.name}.ovf", text), (f"{machine.name}.mf", sums)):
            archive.addfile(_member(member, len(content)), io.BytesIO(content))
        disk.seek(0)
        archive.addfile(_member(name, size), disk)


def _member(name: str, size: int) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = size, 0o644, _TIME
    return member


def describe(machine: Machine, disk: str, size: int) -> str:
    """Return the OVF text."""
    name = quoteattr(machine.name)
    items = "".join(f"      <Item>{_properties(item)}</Item>\n" for item in _items(machine))
    return f"""<?xml version="1.0" encoding="UTF-8"?>
<Envelope ovf:version="1.0" xml:lang="en-US" {_SPACES}>
  <References>
    <File ovf:id="file1" ovf:href={quoteattr(disk)} ovf:size="{size}"/>
  </References>
  <DiskSection>
    <Info>The machine's disk</Info>
    <Disk ovf:diskId="disk1" ovf:fileRef="file1" ovf:capacity="{machine.capacity}"
      ovf:format="{_STREAM}"/>
  </DiskSection>
  <NetworkSection>
    <Info>The machine's network</Info>
    <Network ovf:name="NAT"><Description>Outbound, with addresses by DHCP</Description></Network>
  </NetworkSection>
  <VirtualSystem ovf:id={name}>
    <Info>An appliance made by AppPot</Info>
    <Name>{machine.name}</Name>
    <OperatingSystemSection ovf:id="{_LINUX_64}">
      <Info>Linux, 64 bit</Info>
    </OperatingSystemSection>
    <VirtualHardwareSection>
      <Info>The machine's hardware</Info>
      <System>
        <vssd:ElementName>Virtual hardware</vssd:ElementName>
        <vssd:InstanceID>0</vssd:InstanceID>
        <vssd:VirtualSystemIdentifier>{machine.name}</vssd:VirtualSystemIdentifier>
        <vssd:VirtualSystemType>virtualbox-2.2 vmx-10</vssd:VirtualSystemType>
      </System>
{items}    </VirtualHardwareSection>
  </VirtualSystem>
</Envelope>
"""


def _properties(item: list[tuple[str, str | int]]) -> str:
    return "".join(f"<rasd:{key}>{value}</rasd:{key}>" for key, value in item)


def _items(machine: Machine) -> list[list[tuple[str, str | int]]]:
    """Return the devices; each one's properties are in the order that the schema wants."""
    return [
        [
            ("AllocationUnits", "hertz * 10^6"),
            ("ElementName", f"{machine.cpus} virtual CPUs"),
            ("InstanceID", 1),
            ("ResourceType", 3),
            ("VirtualQuantity", machine.cpus),
        ],
        [
            ("AllocationUnits", "byte * 2^20"),
            ("ElementName", f"{machine.memory} MB of memory"),
            ("InstanceID", 2),
            ("ResourceType", 4),
            ("VirtualQuantity", machine.memory),
        ],
        [
            ("Address", 0),
            ("ElementName", "SATA controller"),
            ("InstanceID", 3),
            ("ResourceSubType", "AHCI"),
            ("ResourceType", 20),
        ],
        [
            ("AddressOnParent", 0),
            ("ElementName", "disk1"),
            ("HostResource", "ovf:/disk/disk1"),
            ("InstanceID", 4),
            ("Parent", 3),
            ("ResourceType", 17),
        ],
        [
            ("AddressOnParent", 1),
            ("AutomaticAllocation", "true"),
            ("Connection", "NAT"),
            ("ElementName", "network adapter"),
            ("InstanceID", 5),
            ("ResourceSubType", "E1000"),
            ("ResourceType", 10),
        ],
    ]
