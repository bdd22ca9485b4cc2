"""Files, and archives of them, to make layers of."""

from __future__ import annotations

import hashlib
import io
import tarfile
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import strategies as st

from apppot.errors import AppPotError
from apppot.image import erofs

try:
    PROGRAM = erofs.mkfs_program()
except AppPotError as error:
    PROGRAM = ""
    WHY = str(error)
else:
    WHY = ""


needs_mkfs = pytest.mark.skipif(not PROGRAM, reason=f"needs mkfs.erofs: {WHY}")


SIZES = (0, 1, 511, 512, 4095, 4096, 4097, 12_288, 70_000)


NAME = st.binary(min_size=1, max_size=40).filter(
    lambda n: (
        b"/" not in n and b"\0" not in n and n not in (b".", b"..") and not n.startswith(b".wh.")
    )
)


LONG = st.integers(200, 255).map(lambda n: b"n" * n)


PATH = st.lists(st.one_of(NAME, NAME, LONG), min_size=1, max_size=4).map(b"/".join)


ATTRIBUTE = st.tuples(
    st.sampled_from((b"user.", b"trusted.", b"security.")),
    st.from_regex(rb"[a-z.]{1,20}", fullmatch=True),
).map(b"".join)


@dataclass(frozen=True)
class File:
    """What is put into an archive."""

    path: bytes
    kind: bytes
    mode: int
    uid: int
    gid: int
    mtime: int
    nanoseconds: int
    data: bytes
    target: bytes
    device: tuple[int, int]
    xattrs: dict[bytes, bytes]


def one_file() -> st.SearchStrategy[File]:
    identity = st.one_of(st.integers(0, 70_000), st.integers(0, 2**32 - 2))
    return st.builds(
        File,
        path=PATH,
        kind=st.sampled_from(
            (
                tarfile.REGTYPE,
                tarfile.REGTYPE,
                tarfile.AREGTYPE,
                tarfile.DIRTYPE,
                tarfile.SYMTYPE,
                tarfile.CHRTYPE,
                tarfile.BLKTYPE,
                tarfile.FIFOTYPE,
            )
        ),
        mode=st.integers(0, 0o7777),
        uid=identity,
        gid=identity,
        mtime=st.one_of(st.integers(0, 2**31), st.integers(0, 2**40)),
        nanoseconds=st.one_of(st.just(0), st.integers(0, 999_999_999)),
        data=st.builds(
            lambda size, seed: hashlib.shake_128(seed).digest(size),
            st.sampled_from(SIZES),
            st.binary(max_size=3),
        ),
        target=st.binary(min_size=1, max_size=300).filter(lambda t: b"\0" not in t),
        device=st.tuples(st.integers(0, 4095), st.integers(1, 2**19 - 1)),  # 0:0 deletes
        xattrs=st.dictionaries(ATTRIBUTE, st.binary(max_size=60), max_size=4),
    )


def consistent(files: list[File]) -> list[File]:
    """Leave out the files that are below another that is no folder, and second ones."""
    kept: dict[bytes, File] = {}
    for file in files:
        parts = file.path.split(b"/")
        parents = [b"/".join(parts[:n]) for n in range(1, len(parts))]
        if any(p in kept and kept[p].kind != tarfile.DIRTYPE for p in parents):
            continue
        if file.path in kept or any(
            path.startswith(file.path + b"/") and file.kind != tarfile.DIRTYPE for path in kept
        ):
            continue
        kept[file.path] = file
    return list(kept.values())


TREES = st.lists(one_file(), max_size=12).map(consistent)


def text(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def archived(files: list[File]) -> io.BytesIO:
    """Return an archive of the files, in this order."""
    out = io.BytesIO()
    with tarfile.open(
        fileobj=out, mode="w", format=tarfile.PAX_FORMAT, errors="surrogateescape"
    ) as archive:
        for file in files:
            info = tarfile.TarInfo("./" + text(file.path))
            info.type, info.mode, info.uid, info.gid = file.kind, file.mode, file.uid, file.gid
            info.mtime = file.mtime
            headers = {f"SCHILY.xattr.{text(k)}": text(v) for k, v in file.xattrs.items()}
            if file.nanoseconds:
                fraction = f"{file.nanoseconds:09}".rstrip("0")
                headers["mtime"] = f"{file.mtime}.{fraction}"
            info.pax_headers = headers
            if file.kind in (tarfile.CHRTYPE, tarfile.BLKTYPE):
                info.devmajor, info.devminor = file.device
            if file.kind == tarfile.SYMTYPE:
                info.linkname = text(file.target)
            regular = file.kind in (tarfile.REGTYPE, tarfile.AREGTYPE)
            info.size = len(file.data) if regular else 0
            archive.addfile(info, io.BytesIO(file.data) if regular else None)
    out.seek(0)
    return out


def make(archive: io.BytesIO, path: str) -> None:
    Path(path).touch()
    erofs.make(archive, path)
