"""Write an OVA: a disk with the description of a machine that boots it (OVF 1.0)."""

from __future__ import annotations

import hashlib
import tarfile
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING
from xml.sax.saxutils import quoteattr

from apppot.image.bootdisk import vmdk

if TYPE_CHECKING:
    import uuid

_SPACES = (
    'xmlns="http://schemas.dmtf.org/ovf/envelope/1"'
    ' xmlns:ovf="http://schemas.dmtf.org/ovf/envelope/1"'
    ' xmlns:rasd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData"'
    ' xmlns:vssd="http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData"'
)
_STREAM = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized"
_LINUX_64 = 101
_TIME = 1767225600
_LARGEST = (1 << 64) - 1  # as a number, the longest
_LARGEST_IN_USTAR = 8 << 30


@dataclass(frozen=True)
class Machine:
    """What the description asks for."""

    name: str
    capacity: int  # of the disk, in bytes
    memory: int = 1024  # MiB
    cpus: int = 1


def write(machine: Machine, disk: int, target: IO[bytes], identity: uuid.UUID) -> None:
    """Write the archive of the raw disk `disk` to a file; the same inputs give the same bytes.

    The disk is written first, in its place: what stands before it is as long whatever its size.
    """
    name = f"{machine.name}-disk1.vmdk"
    digest = hashlib.sha256()
    begin = len(_front(machine, name, 0, digest.hexdigest()))
    target.seek(begin)

    def sink(content: bytes) -> None:
        digest.update(content)
        target.write(content)

    vmdk.write(disk, sink, identity)
    size = target.tell() - begin
    target.write(bytes(-size % tarfile.BLOCKSIZE + 2 * tarfile.BLOCKSIZE))
    target.seek(0)
    target.write(_front(machine, name, size, digest.hexdigest()))


def _front(machine: Machine, name: str, size: int, digest: str) -> bytes:
    """Return what stands before the content of the disk."""
    room = len(describe(machine, name, _LARGEST))
    text = describe(machine, name, size).ljust(room, "\n").encode()
    sums = (
        f"SHA256({machine.name}.ovf)= {hashlib.sha256(text).hexdigest()}\n"
        f"SHA256({name})= {digest}\n"
    ).encode()
    out = b""
    for member, content in ((f"{machine.name}.ovf", text), (f"{machine.name}.mf", sums)):
        out += _header(member, len(content)) + content + bytes(-len(content) % tarfile.BLOCKSIZE)
    return out + _header(name, size)


def _header(name: str, size: int) -> bytes:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = size, 0o644, _TIME
    if size < _LARGEST_IN_USTAR:
        return member.tobuf(tarfile.USTAR_FORMAT)
    return member.tobuf(tarfile.GNU_FORMAT)  # the standard's form has no room; tools read this


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
