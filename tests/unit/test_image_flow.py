"""Archives that become a layer while they arrive: the same as when they are read whole."""

from __future__ import annotations

import io
import tarfile
from typing import IO, TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apppot.errors import ImageError
from apppot.image import tarflow, tarread, tarstream
from apppot.image.tarflow import DisorderError, Flow
from tests.unit.test_image_tar import NAMES, both, made

if TYPE_CHECKING:
    from apppot.image.tarstream import Normalised


def flown(archive: IO[bytes]) -> tuple[bytes, Normalised]:
    """Return what pass_on makes of an archive that comes through a pipe."""
    source, target = Flow(io.BufferedReader(Once(archive))), io.BytesIO()
    found = tarflow.pass_on(source, tarread.entries(source), target)
    return target.getvalue(), found


class Once(io.RawIOBase):
    """A file that cannot be read twice."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Read what comes next."""
        data = self.file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def as_the_agent_does(canonical: bytes) -> io.BytesIO:
    """Return the archive with the marks of opaque folders right behind these."""
    out = io.BytesIO()
    with (
        tarfile.open(fileobj=io.BytesIO(canonical)) as archive,
        tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as again,
    ):
        members = archive.getmembers()
        marks = {m.name.rpartition("/")[0]: m for m in members if m.name.endswith(".wh..wh..opq")}
        for member in members:
            if member in marks.values():
                continue
            again.addfile(member, archive.extractfile(member) if member.isreg() else None)
            if member.isdir() and member.name in marks:
                again.addfile(marks[member.name])
    out.seek(0)
    return out


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from("ffddwoc")), max_size=10))
@settings(deadline=None)
def test_what_is_in_order_passes(entries: list[tuple[str, str]]) -> None:
    try:
        native, plain, content = both(made(*entries))
    except ImageError:
        return
    data, found = flown(as_the_agent_does(plain))
    assert data == native
    assert found.content == content


@given(st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from("ffddwoc")), max_size=6))
@settings(deadline=None)
def test_what_passes_is_the_same(entries: list[tuple[str, str]]) -> None:
    try:
        data, found = flown(made(*entries))
    except ImageError:
        return
    native = io.BytesIO()
    assert tarstream.normalise(made(*entries), native) == found
    assert data == native.getvalue()


@pytest.mark.parametrize(
    "entries",
    [
        [("b", "f"), ("a", "f")],
        [("a", "f"), ("a", "f")],
        [("d/a", "f")],  # without its folder
        [("a", "f"), ("a", "w")],
        [("a", "w"), ("a", "f")],
        [("d", "d"), ("d/a", "f"), ("d", "o")],
        [("d", "d"), ("d", "o"), ("d/a", "w")],
        [("d", "d"), ("d", "o"), ("d/e", "d"), ("d/e", "o")],
    ],
)
def test_what_has_to_be_looked_at_as_a_whole(entries: list[tuple[str, str]]) -> None:
    with pytest.raises(DisorderError):
        flown(made(*entries))


def linked(*links: tuple[str, str]) -> io.BytesIO:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        first = tarfile.TarInfo("a")
        first.size = 700
        first.pax_headers = {"SCHILY.xattr.user.k": "v"}
        archive.addfile(first, io.BytesIO(b"x" * 700))
        for name, target in links:
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.LNKTYPE, target
            archive.addfile(link)
    out.seek(0)
    return out


def test_hard_links() -> None:
    archive = linked(("b", "a"), ("c", "b"), ("d", "a"))
    data, found = flown(archive)
    native, _, content = both(archive)
    assert (data, found.content) == (native, content)


@pytest.mark.parametrize("target", ["nowhere", "b", "z"])
def test_hard_links_that_lead_on(target: str) -> None:
    with pytest.raises(DisorderError):
        flown(linked(("b", target)))


def test_sparse_files() -> None:
    text = b"2\n0\n512\n1048576\n512\n"
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("sparse")
        info.pax_headers = {
            "GNU.sparse.major": "1",
            "GNU.sparse.minor": "0",
            "GNU.sparse.name": "sparse",
            "GNU.sparse.realsize": "2000000",
        }
        body = text.ljust(512, b"\0") + b"A" * 512 + b"B" * 512
        info.size = len(body)
        archive.addfile(info, io.BytesIO(body))
    out.seek(0)
    data, found = flown(out)
    native, _, content = both(out)
    assert (data, found.content) == (native, content)
    assert len(data) > 2000000


@pytest.mark.parametrize("size", [100, 512, 1000, 1400])
def test_an_archive_that_breaks_off(size: int) -> None:
    with pytest.raises(ImageError, match="damaged"):
        flown(io.BytesIO(linked(("b", "a")).getvalue()[:size]))
