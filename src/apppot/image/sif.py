"""Write SIF files, Apptainer's image format: a header, descriptors, and one SquashFS partition.

After the specification of SIF version 01 (github.com/apptainer/sif): all numbers are little-endian.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from struct import Struct

LAUNCH = b"#!/usr/bin/env run-singularity\n"
MAGIC = b"SIF_MAGIC"
VERSION = b"01"
AMD64 = b"02"
# launch script, magic, version, architecture, id, created, modified, free and all descriptors,
# their place and size, the data's place and size
HEADER = Struct("<32s10s3s3s16s8q")
# type, used, id, group, link, place, size, size with padding, created, modified, uid, gid, name,
# and what belongs to the type
DESCRIPTOR = Struct("<i?IIIqqqqqqq128s384s")
PARTITION = Struct("<ii3s")  # file system, use, architecture
DESCRIPTORS, DESCRIPTORS_AT = 48, 4096
DATA_AT = DESCRIPTORS_AT + DESCRIPTORS * DESCRIPTOR.size
PAGE = 4096
PARTITION_TYPE, SQUASHFS, PRIMARY = 0x4004, 1, 2
FIRST_GROUP = 0xF0000001
ID_SIZE = 16


def write(squashfs: str, target: str, *, created: str) -> None:
    """Write a SIF file around a SquashFS file; raises OSError.

    Its identifier is made from the content, so that the same image gives the same bytes.
    """
    size = os.path.getsize(squashfs)
    seconds = _seconds(created)
    with open(squashfs, "rb") as source, open(target, "wb") as file:
        ident = hashlib.file_digest(source, "sha256").digest()[:ID_SIZE]
        source.seek(0)
        begin = -(-DATA_AT // PAGE) * PAGE
        header = HEADER.pack(
            LAUNCH, MAGIC, VERSION, AMD64, ident, seconds, seconds, DESCRIPTORS - 1, DESCRIPTORS,
            DESCRIPTORS_AT, DESCRIPTORS * DESCRIPTOR.size, DATA_AT, begin + size - DATA_AT,
        )  # fmt: skip
        extra = PARTITION.pack(SQUASHFS, PRIMARY, AMD64)
        descriptor = DESCRIPTOR.pack(
            PARTITION_TYPE, True, 1, FIRST_GROUP, 0, begin, size, begin + size - DATA_AT,
            seconds, seconds, 0, 0, b"squashfs.img", extra,
        )  # fmt: skip
        file.write(header)
        file.seek(DESCRIPTORS_AT)
        file.write(descriptor)
        file.seek(begin)
        shutil.copyfileobj(source, file, 1 << 20)


def _seconds(text: str) -> int:
    import calendar

    return calendar.timegm(time.strptime(text, "%Y-%m-%dT%H:%M:%SZ"))
