"""Several layers of changes become one: what it does is what they do one after another."""

from __future__ import annotations

import os
import tarfile
import tempfile

from hypothesis import given, settings
from hypothesis import strategies as st

from apppot.image import merging
from tests.unit.changes_archives import archive


def stacked(*layers: list[tuple[str, bytes | None]]) -> dict[str, bytes | None]:
    """Return what the archives of layers are together."""
    with tempfile.TemporaryFile() as whole, tempfile.TemporaryFile() as target:
        parts = []
        for layer in layers:
            begin = whole.seek(0, os.SEEK_END)
            whole.write(archive(*layer).getvalue())
            parts.append((begin, whole.tell()))
        whole.flush()
        merging.merge(whole, parts, target)
        target.seek(0)
        with tarfile.open(fileobj=target) as tar:
            found = {}
            for member in tar:
                file = tar.extractfile(member) if member.isfile() else None
                found[member.name] = file.read() if file else None
            return found


def test_the_upper_file_wins() -> None:
    assert stacked([("a", b"1"), ("b", b"2")], [("b", b"3")]) == {".": None, "a": b"1", "b": b"3"}


def test_deleting_keeps_the_mark_for_the_base() -> None:
    found = stacked([("d", None), ("d/x", b"1")], [("d", None), ("d/.wh.x", b"")])
    assert found == {".": None, "d": None, "d/.wh.x": b""}


def test_a_file_made_anew_needs_no_mark() -> None:
    found = stacked([(".wh.x", b"")], [("x", b"new")])
    assert found == {".": None, "x": b"new"}


def test_a_folder_made_anew_hides_the_base() -> None:
    found = stacked([(".wh.d", b"")], [("d", None), ("d/y", b"1")])
    assert found == {".": None, "d": None, "d/.wh..wh..opq": b"", "d/y": b"1"}


def test_an_opaque_folder_hides_what_is_below_it() -> None:
    found = stacked(
        [("d", None), ("d/x", b"1"), ("e", b"2")],
        [("d", None), ("d/.wh..wh..opq", b""), ("d/z", b"3")],
    )
    assert found == {".": None, "d": None, "d/.wh..wh..opq": b"", "d/z": b"3", "e": b"2"}


def test_a_file_in_the_place_of_a_folder() -> None:
    found = stacked([("d", None), ("d/x", b"1")], [("d", b"file")])
    assert found == {".": None, "d": b"file"}


NAMES = st.sampled_from(("a", "b", "a/a", "a/b", "b/a", "a/a/a", "b/b"))


STEP = st.lists(st.tuples(st.sampled_from(("write", "delete", "renew")), NAMES), max_size=5)


def _apply(tree: dict[str, bytes | None], layer: list[tuple[str, bytes | None]]) -> None:
    """Put a layer on a tree, as the OCI image specification says."""
    _delete(tree, layer)
    _add(tree, layer)


def _delete(tree: dict[str, bytes | None], layer: list[tuple[str, bytes | None]]) -> None:
    for name, _ in layer:
        folder, _, last = name.rpartition("/")
        if last == ".wh..wh..opq":
            gone = f"{folder}/"
        elif last.startswith(".wh."):
            victim = f"{folder}/{last[4:]}".lstrip("/")
            tree.pop(victim, None)
            gone = f"{victim}/"
        else:
            continue
        for path in [path for path in tree if path.startswith(gone)]:
            del tree[path]


def _add(tree: dict[str, bytes | None], layer: list[tuple[str, bytes | None]]) -> None:
    for name, data in layer:
        if name.rpartition("/")[2].startswith(".wh."):
            continue
        if data is not None:
            for path in [path for path in tree if path.startswith(f"{name}/")]:
                del tree[path]
        for n in range(1, name.count("/") + 1):
            above = "/".join(name.split("/")[:n])
            if tree.get(above) is not None:
                del tree[above]
            tree.setdefault(above, None)
        tree[name] = data


@st.composite
def layer(draw: st.DrawFn) -> list[tuple[str, bytes | None]]:
    """Return a layer that is consistent in itself."""
    files: dict[str, bytes | None] = {}
    marks: set[str] = set()
    for what, name in draw(STEP):
        above = ["/".join(name.split("/")[:n]) for n in range(1, name.count("/") + 1)]
        if any(files.get(path) is not None for path in above) or name in files:
            continue
        if any(path.startswith(f"{name}/") for path in files) and what != "renew":
            continue
        folder, _, last = name.rpartition("/")
        for path in above:
            files.setdefault(path, None)
        if what == "write":
            files[name] = draw(st.binary(min_size=1, max_size=3))
        elif what == "delete":
            marks.add(f"{folder}/.wh.{last}".lstrip("/"))
        else:
            files[name] = None
            marks.add(f"{name}/.wh..wh..opq")
    marks -= {mark for mark in marks if mark.replace(".wh.", "", 1) in files and "opq" not in mark}
    return [*sorted(files.items()), *((mark, b"") for mark in sorted(marks))]


@given(layer(), layer(), layer(), layer())
@settings(max_examples=400, deadline=None)
def test_stacked_layers_do_what_they_do_one_after_another(
    base: list[tuple[str, bytes | None]],
    one: list[tuple[str, bytes | None]],
    two: list[tuple[str, bytes | None]],
    three: list[tuple[str, bytes | None]],
) -> None:
    separate: dict[str, bytes | None] = {}
    for each in (base, one, two, three):
        _apply(separate, each)
    together: dict[str, bytes | None] = {}
    _apply(together, base)
    merged = stacked(one, two, three)
    merged.pop(".", None)
    _apply(together, list(merged.items()))
    assert together == separate
