"""Archives from anywhere: the two forms of deletions, sparse files, and headers that lie."""

from __future__ import annotations

import contextlib
import io
import resource
import struct
import subprocess
import sys
import tarfile
from typing import IO

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apppot.errors import ImageError
from apppot.image import tarstream, tarwrite
from apppot.image.tarread import FILE, FOLDER, SYMLINK, Entry
from tests.unit.erofs_archives import File, archived

NAMES = ["a", "b", "d", "d/a", "d/e", "d/e/f", "d/e/g", "x/y/z"]


def made(*entries: tuple[str, str]) -> io.BytesIO:
    """Return an archive of names and kinds: f(ile), d(older), w(hiteout), o(paque), c(0:0)."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path, kind in entries:
            folder, slash, name = path.rpartition("/")
            full = {"w": f"{folder}{slash}.wh.{name}", "o": f"{path}/.wh..wh..opq"}.get(kind, path)
            info = tarfile.TarInfo(full)
            info.type = {"d": tarfile.DIRTYPE, "c": tarfile.CHRTYPE}.get(kind, tarfile.REGTYPE)
            info.mode, info.mtime = 0o751, 5
            data = full.encode() if kind == "f" else b""
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    out.seek(0)
    return out


def both(archive: IO[bytes]) -> tuple[bytes, bytes, str]:
    """Return the native form, the canonical one, and the content digest."""
    native, plain = io.BytesIO(), io.BytesIO()
    one = tarstream.normalise(archive, native)
    two = tarstream.canonical(archive, plain)
    assert one == two
    return native.getvalue(), plain.getvalue(), one.content


def listed(data: bytes) -> dict[str, str]:
    found = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        for member in archive:
            kind = "d" if member.isdir() else "c" if member.ischr() else "f"
            if "SCHILY.xattr.trusted.overlay.opaque" in member.pax_headers:
                kind = "o"
            found[member.name] = kind
    return found


@pytest.mark.parametrize(
    ("entries", "native", "plain"),
    [
        ([("d/a", "w")], {"d": "d", "d/a": "c"}, {"d": "d", "d/.wh.a": "f"}),
        ([("d/a", "c")], {"d": "d", "d/a": "c"}, {"d": "d", "d/.wh.a": "f"}),
        ([("d", "o")], {"d": "o"}, {"d": "d", "d/.wh..wh..opq": "f"}),
        ([("d/a", "w"), ("d/a", "f")], {"d": "d", "d/a": "f"}, {"d": "d", "d/a": "f"}),
        ([("d", "d"), ("d", "w")], {"d": "o"}, {"d": "d", "d/.wh..wh..opq": "f"}),
        (
            [("d", "w"), ("d/a", "f")],
            {"d": "o", "d/a": "f"},
            {"d": "d", "d/.wh..wh..opq": "f", "d/a": "f"},
        ),
        (
            [("d", "o"), ("d/e", "o"), ("d/a", "w"), ("d/e/f", "w")],
            {"d": "o", "d/e": "d"},
            {"d": "d", "d/.wh..wh..opq": "f", "d/e": "d"},
        ),
        ([(".wh..wh.plnk/1.2", "f"), ("a", "f")], {"a": "f"}, {"a": "f"}),
        ([("a", "f"), ("a/b", "w"), ("a/c", "o")], {"a": "f"}, {"a": "f"}),
        ([("a.wh.b", "f")], {"a.wh.b": "f"}, {"a.wh.b": "f"}),
    ],
)
def test_deletions(
    entries: list[tuple[str, str]], native: dict[str, str], plain: dict[str, str]
) -> None:
    one, two, _ = both(made(*entries))
    assert listed(one) == {".": "d", **native}
    assert listed(two) == {".": "d", **plain}


@pytest.mark.parametrize(
    ("path", "message"),
    [
        (".wh..wh..opq", "everything that is below"),
        ("d/.wh.", "deletes no file"),
        ("d/.wh...", "deletes no file"),
        (".wh.d/a", "below a mark"),
    ],
)
def test_deletions_of_nothing(path: str, message: str) -> None:
    with pytest.raises(ImageError, match=message):
        both(made((path, "f")))


@given(
    st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from("ffddwoc")), max_size=10),
    st.randoms(),
)
@settings(deadline=None)
def test_the_canonical_form_is_one(entries: list[tuple[str, str]], order: object) -> None:
    try:
        native, plain, content = both(made(*entries))
    except ImageError:
        return
    again = both(io.BytesIO(plain))
    assert again == (native, plain, content)
    names = list(listed(plain))
    assert names == sorted(names, key=lambda n: [] if n == "." else n.split("/"))
    assert not any(kind in "co" for kind in listed(plain).values())
    assert ".wh." not in "".join(listed(native))


def test_attributes_of_overlayfs_come_from_nowhere_else() -> None:
    xattrs = {b"trusted.overlay.opaque": b"y", b"trusted.overlay.redirect": b"/etc"}
    kept = {b"user.x": b"1", b"trusted.y": b"2"}
    file = File(b"d", tarfile.DIRTYPE, 0o755, 0, 0, 0, 0, b"", b"x", (0, 0), {**xattrs, **kept})
    native, plain, _ = both(archived([file]))
    assert b"trusted.overlay" not in native
    assert b"user.x=1" in native
    assert native == plain


@given(
    path=st.text(min_size=1, max_size=300).map(
        lambda t: t.replace("/", "").replace("\0", "") or "x"
    ),
    numbers=st.tuples(*[st.integers(0, 2**32 - 2)] * 2, st.integers(0, 2**40)),
    mtime=st.integers(-(2**40), 2**40),
    nanoseconds=st.integers(0, 999_999_999),
    xattrs=st.dictionaries(st.from_regex("user\\.[a-z]+", fullmatch=True), st.binary(max_size=99)),
    kind=st.sampled_from((FILE, FOLDER, SYMLINK)),
    link=st.binary(min_size=1, max_size=200).filter(lambda b: b"\0" not in b),
)
@settings(deadline=None)
def test_headers_are_what_tarfile_reads(
    path: str,
    numbers: tuple[int, int, int],
    mtime: int,
    nanoseconds: int,
    xattrs: dict[str, bytes],
    kind: int,
    link: bytes,
) -> None:
    uid, gid, size = numbers
    entry = Entry(kind, 0o4755, uid, gid, mtime, nanoseconds if mtime >= 0 else 0)
    entry.size = size if kind == FILE else 0
    entry.link = link if kind == SYMLINK else b""
    entry.xattrs = tuple(sorted((k.encode(), v) for k, v in xattrs.items()))
    data = tarwrite.headers(path.encode("utf-8", "surrogatepass"), entry)
    with tarfile.open(fileobj=io.BytesIO(data), errors="surrogateescape") as archive:
        member = archive.next()
    assert member is not None
    name = path.encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")
    assert (member.name, member.mode, member.uid, member.gid) == (name, 0o4755, uid, gid)
    assert (member.size, member.type) == (entry.size, bytes([kind]))
    if entry.nanoseconds:
        assert member.pax_headers["mtime"] == f"{mtime}.{nanoseconds:09}"
    else:
        assert member.mtime == mtime
    found = {k[13:]: v for k, v in member.pax_headers.items() if k.startswith("SCHILY.xattr.")}
    assert found == {k: v.decode("utf-8", "surrogateescape") for k, v in xattrs.items()}
    assert member.linkname.encode("utf-8", "surrogateescape") == entry.link


def test_a_hard_link_keeps_the_file_that_it_was_made_of() -> None:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for name, link, data in (("a", "", b"old"), ("b", "a", b""), ("a", "", b"new")):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            if link:
                info.type, info.linkname = tarfile.LNKTYPE, link
            archive.addfile(info, io.BytesIO(data))
    native = both(out)[0]
    with tarfile.open(fileobj=io.BytesIO(native)) as archive:
        found = [archive.extractfile(name) for name in ("a", "b")]
        assert [file.read() for file in found if file] == [b"new", b"old"]


def header(kind: bytes, size: int, *, name: bytes = b"x") -> bytes:
    """Return a header with a right sum and any size."""
    info = tarfile.TarInfo(name.decode())
    block = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    block[124:136] = b"\x80" + size.to_bytes(11, "big")
    block[156:157] = kind
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def sparse(real: int) -> bytes:
    """Return an old sparse file of a great size, of which 512 bytes are there."""
    block = bytearray(header(b"S", 512))
    block[386:410] = struct.pack(">12s12s", b"%011o\0" % 0, b"%011o\0" % 512)
    block[483:495] = b"\x80" + real.to_bytes(11, "big")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + bytes(512)


LIES = {
    "size": header(b"0", 1 << 62) + bytes(1024),
    "negative": bytes(header(b"0", 1)).replace(b"\x80" + bytes(10) + b"\1", b"\xff" * 12),
    "pax": header(b"x", 1 << 40) + bytes(1024),
    "pax-1g": header(b"x", 1 << 30) + bytes(1024),
    "name": header(b"L", 1 << 31) + bytes(1024),
    "many pax": (header(b"x", 512) + b"9 a=bcde\n".ljust(512, b"\0")) * 9000,
    "sparse": sparse(1 << 60),
    "global": (header(b"g", 512) + b"9 a=bcde\n".ljust(512, b"\0")) * 9000 + b"x" * 512,
}


@pytest.mark.parametrize("lie", LIES)
def test_headers_that_lie(lie: str) -> None:
    with pytest.raises(ImageError):
        tarstream.normalise(io.BytesIO(LIES[lie]), io.BytesIO(), limit=1 << 20)


MANY = """
import io, resource, sys
from apppot.errors import ImageError
from apppot.image import tarread, tartree
tartree.MOST_ENTRIES = 20_000
class Endless(io.RawIOBase):
    def seekable(self): return True
    def fileno(self): raise OSError
    def seek(self, offset, whence=0):
        self.at = 1 << 50 if whence == 2 else offset
        return self.at
    def read(self, size=-1):
        from tests.unit.test_image_tar import header
        return header(b"0", 0, name=b"%d" % self.at)
try:
    tartree.read(tarread.Source(Endless()), None)
except ImageError as error:
    print(error)
"""


def test_archives_without_end() -> None:
    done = subprocess.run(
        [sys.executable, "-c", MANY], capture_output=True, text=True, check=False, timeout=120
    )
    assert "more than 20000 files" in done.stdout, done.stderr


def test_memory_for_a_big_archive_is_small() -> None:
    code = """
import io, resource, tempfile, os
from apppot.image import tarstream
from tests.unit.test_image_tar import header
with tempfile.TemporaryFile() as file, open(os.devnull, "wb") as target:
    for n in range(4):
        file.write(header(b"0", 100 << 20, name=b"%d" % n))
        file.seek(100 << 20, 1)
    file.truncate()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    tarstream.normalise(file, target)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    assert int(done.stdout) < 16 << 10  # KiB


@given(st.binary(max_size=3000), st.integers(0, 6), st.integers(0, 511))
@settings(deadline=None, max_examples=200)
def test_damaged_headers_are_an_error_or_read(data: bytes, which: int, cut: int) -> None:
    lie = list(LIES.values())[which][:4096]
    for damaged in (lie[:cut] + data, lie + data, data + lie):
        with contextlib.suppress(ImageError):
            tarstream.normalise(io.BytesIO(damaged), io.BytesIO(), limit=1 << 22)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 1 << 20
