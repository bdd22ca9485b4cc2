"""Write the program that UEFI starts: guest/efi.c, with its data as sections. Pure."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from apppot.image.parttable import SECTOR

_PAGE = 4096
_HEADERS = 1024
_OPTIONAL_SIZE = 112 + 6 * 8
_CODE, _DATA = 0x60000020, 0x40000040  # read and execute; read


@dataclass(frozen=True)
class Program:
    """The file, and where each section's content begins in it."""

    content: bytes
    places: dict[str, int]


def make(loader: bytes, sections: dict[str, bytes]) -> Program:
    """Return a program of the loader's code, which is entered at its begin, and `sections`."""
    parts = {".text": loader, **sections}
    address, place = _PAGE, _HEADERS
    table, places = [], {}
    for name, content in parts.items():
        length = _up(len(content), SECTOR)
        kind = _CODE if name == ".text" else _DATA
        table.append(
            struct.pack(
                "<8sIIIIIIHHI",
                *(name.encode(), len(content), address, length, place, 0, 0, 0, 0, kind),
            )
        )
        places[name] = place
        address += _up(len(content), _PAGE)
        place += length
    head = _head(len(parts), len(loader), sum(map(len, sections.values())), address)
    head = (head + b"".join(table)).ljust(_HEADERS, b"\0")
    body = b"".join(each.ljust(_up(len(each), SECTOR), b"\0") for each in parts.values())
    return Program(head + body, places)


def _head(sections: int, code: int, data: int, image: int) -> bytes:
    dos = b"MZ".ljust(60, b"\0") + struct.pack("<I", 64)
    coff = struct.pack("<4sHHIIIHH", b"PE\0\0", 0x8664, sections, 0, 0, 0, _OPTIONAL_SIZE, 0x22)
    optional = struct.pack(
        "<HBBIIIII QIIHHHHHHIIIIHHQQQQII",
        *(0x20B, 1, 0, code, data, 0, _PAGE, _PAGE),
        *(0, _PAGE, SECTOR, 0, 0, 0, 0, 0, 0, 0, image, _HEADERS, 0, 10, 0),
        *(0, 0, 0, 0, 0, 6),
    )
    return dos + coff + optional.ljust(_OPTIONAL_SIZE, b"\0")


def _up(number: int, unit: int) -> int:
    return -(-number // unit) * unit
