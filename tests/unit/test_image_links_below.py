"""Hard links to files of lower layers: both names are in the new layer, and are one file."""

from __future__ import annotations

import io
import tarfile
import tempfile

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from apppot.errors import ImageError
from apppot.image import tarread, tarstream, tartree
from apppot.image.tartree import LinksBelowError

LINK, OPAQUE, FOLDER, DELETED = "link", "opaque", "folder", "deleted"
Step = tuple[str, str]  # a path, and what it is: contents, or LINK:TARGET, FOLDER, OPAQUE, "-PATH"


def made(*steps: Step) -> bytes:
    """Return an archive of steps in their order; `-` before a path deletes it."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for path, what in steps:
            folder, slash, name = path.removeprefix("-").rpartition("/")
            mark = f"{folder}{slash}.wh.{name}"
            info = tarfile.TarInfo(mark if path.startswith("-") else path)
            info.mode, info.mtime = 0o640, 7
            data = b"" if path.startswith("-") else what.encode()
            if what.startswith(LINK):
                info.type, info.linkname, data = tarfile.LNKTYPE, what[len(LINK) + 1 :], b""
            elif what == FOLDER:
                info.type, info.mode, info.uid, data = tarfile.DIRTYPE, 0o1700, 5, b""
            elif what == OPAQUE:
                info.name, data = f"{path}/.wh..wh..opq", b""
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


# What the machine gives of the lower layers. `c` and `d/b` are one file.
LOWER = made(
    ("c", "both"), ("d", FOLDER), ("d/a", "of d/a"), ("d/b", "link:c"), ("d/e", FOLDER),
    ("d/e/f", "of d/e/f"), ("folder", FOLDER),
)  # fmt: skip


def converted(layer: bytes, lower: bytes = LOWER) -> tuple[bytes, str]:
    """Return the native form of a layer on lower ones, and its content digest."""
    native = io.BytesIO()
    with tempfile.TemporaryFile() as source:
        source.write(layer + lower)
        source.flush()
        below = len(layer), len(layer) + len(lower)
        found = tarstream.normalise(source, native, below=below)
    return native.getvalue(), found.content


def listed(data: bytes) -> dict[str, str]:
    """Return what is in an archive: contents, or the first name of the file."""
    found = {}
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        for member in tar:
            content = tar.extractfile(member) if member.isfile() else None
            text = content.read().decode() if content and not member.islnk() else ""
            kind = FOLDER if member.isdir() else DELETED if member.ischr() else text
            if "SCHILY.xattr.trusted.overlay.opaque" in member.pax_headers:
                kind = OPAQUE
            found[member.name] = f"link:{member.linkname}" if member.islnk() else kind
    del found["."]
    return found


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        # The target and the folders above it come up.
        ([("n", "link:d/a")], {"d": FOLDER, "d/a": "of d/a", "n": "link:d/a"}),
        ([("./n", "link:/d/a")], {"d": FOLDER, "d/a": "of d/a", "n": "link:d/a"}),
        (
            [("d/e/n", "link:d/e/f")],
            {"d": FOLDER, "d/e": FOLDER, "d/e/f": "of d/e/f", "d/e/n": "link:d/e/f"},
        ),
        # Names of one file are one file, through other links as well.
        (
            [("m", "link:c"), ("n", "link:d/b"), ("o", "link:n")],
            {"c": "both", "d": FOLDER, "d/b": "link:c"}
            | {"m": "link:c", "n": "link:c", "o": "link:c"},
        ),
        # A file that is deleted after the link stays under its new name: so it was moved.
        ([("n", "link:d/a"), ("-d/a", "")], {"d": FOLDER, "d/a": DELETED, "n": "of d/a"}),
        ([("n", "link:d/a"), ("-d", "")], {"d": DELETED, "n": "of d/a"}),
        (
            [("n", "link:d/a"), ("d", FOLDER), ("d", OPAQUE)],
            {"d": OPAQUE, "n": "of d/a"},
        ),
        ([("n", "link:d/a"), ("d", "now a file")], {"d": "now a file", "n": "of d/a"}),
        # The layer's own file comes first, wherever it stands.
        (
            [("n", "link:d/a"), ("d/a", "own")],
            {"d": FOLDER, "d/a": "own", "n": "link:d/a"},
        ),
        ([("-d/a", ""), ("d/a", "own"), ("n", "link:d/a")],
         {"d": FOLDER, "d/a": "own", "n": "link:d/a"}),
        # What takes the place of a link is no link.
        ([("n", "link:d/a"), ("n", "other")], {"n": "other"}),
    ],
)  # fmt: skip
def test_links(steps: list[Step], expected: dict[str, str]) -> None:
    data, _ = converted(made(*steps))
    assert listed(data) == expected


def test_folders_above_are_as_the_lower_layer_has_them() -> None:
    data, _ = converted(made(("n", "link:d/e/f")))
    with tarfile.open(fileobj=io.BytesIO(data)) as tar:
        assert {(m.mode, m.uid) for m in tar if m.isdir() and m.name != "."} == {(0o1700, 5)}
    own = made(("d/e", "link:c"), ("n", "link:d/a"))
    assert listed(converted(own)[0])["d/e"] == "link:c"


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ([("n", "link:nowhere")], "'n' .* hard link to 'nowhere', which is no file, here or in"),
        ([("n", "link:folder")], "hard link to 'folder', which is no file, here or in"),
        ([("-d/a", ""), ("n", "link:d/a")], "'d/a', which the same layer deletes"),
        ([("-d", ""), ("n", "link:d/e/f")], "'d/e/f', which the same layer deletes"),
        ([("d", OPAQUE), ("n", "link:d/a")], "'d/a', which the same layer deletes"),
        ([("d", "a file"), ("n", "link:d/a")], "'d/a', which the same layer deletes"),
        ([("-c", ""), ("m", "link:c"), ("n", "link:m")], "'c', which the same layer deletes"),
        ([("d/a", FOLDER), ("n", "link:d/a")], "'d/a', which is no file"),
        ([("m", "link:n"), ("n", "link:m")], "which is no file"),
        ([("n", "link:../d/a")], "leads out of it"),
    ],
)
def test_links_to_nothing(steps: list[Step], message: str) -> None:
    with pytest.raises(ImageError, match=message) as error:
        converted(made(*steps))
    assert not isinstance(error.value, LinksBelowError)


def test_what_is_needed_of_lower_layers_is_told_once() -> None:
    layer = made(
        ("own", "x"), ("a", "link:own"), ("n", "link:d/a"), ("m", "link:./d/a"), ("o", "link:n"),
        ("p", "link:c"),
    )  # fmt: skip
    with pytest.raises(LinksBelowError, match="hard link to 'd/a', which is no file") as error:
        tartree.read(tarread.Source(io.BytesIO(layer)), None)
    assert error.value.paths == (b"d/a", b"c")


def test_many_folders_deep() -> None:
    deep = "/".join("d" * 2000)
    with pytest.raises(LinksBelowError):
        tartree.read(tarread.Source(io.BytesIO(made(("n", f"link:{deep}")))), None)


@pytest.mark.parametrize("kept", [True, False])
def test_the_content_is_that_of_a_layer_with_the_files_in_it(kept: bool) -> None:
    steps = [("d", FOLDER), ("d/a", "of d/a"), ("n", "link:d/a")]
    alone = tarstream.canonical(io.BytesIO(made(*steps)), io.BytesIO())
    below = converted(made(*(steps if kept else steps[2:])))
    assert below[1] == alone.content


PLACES = ("c", "d/a", "d/b", "d/e/f", "n", "d/n", "d/e/n", "x/y")
LOWER_FILES = {"c": "both", "d/a": "of d/a", "d/b": "both", "d/e/f": "of d/e/f"}
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("file"), st.sampled_from(PLACES), st.just("")),
        st.tuples(st.just("link"), st.sampled_from(PLACES), st.sampled_from(PLACES)),
        st.tuples(st.just("delete"), st.sampled_from((*LOWER_FILES, "d", "d/e")), st.just("")),
        st.tuples(st.just("renew"), st.sampled_from(("d", "d/e")), st.just("")),
    ),
    max_size=7,
)


class Engine:
    """What an engine does that unpacks a layer into the merged tree, step by step."""

    def __init__(self) -> None:
        self.tree = {path: (text, text) for path, text in LOWER_FILES.items()}  # contents, file
        self.own: set[str] = set()  # what the layer has itself
        self.links: dict[str, str] = {}

    def do(self, what: str, path: str, target: str, number: int) -> bool:
        """Do a step, if engines and AppPot agree on what it means; tell whether they do."""
        if what in ("delete", "renew"):
            inside = [p for p in self.tree if p == path or p.startswith(f"{path}/")]
            agreed = self.own.isdisjoint(inside)
            for each in inside if agreed else ():
                del self.tree[each]
            return agreed
        if path in self.links.values():  # a link that stands before its file leads to it
            return False
        if any(p.startswith(f"{path}/") or path.startswith(f"{p}/") for p in self.tree):
            return False
        if what == "link":
            if target == path or target not in self.tree:
                return False
            self.tree[path] = self.tree[target]
            self.links[path] = target
        else:
            self.tree[path] = (f"own {number}", f"own {number}")
            self.links.pop(path, None)
        self.own.add(path)
        return True


def stacked(native: bytes) -> dict[str, tuple[str, str]]:
    """Return what is seen of a layer on the lower ones: contents, and the file's first name."""
    tree = {path: (text, "") for path, text in LOWER_FILES.items()}
    found = listed(native)
    for path, what in found.items():
        if what in (DELETED, OPAQUE):
            for each in [p for p in tree if p == path or p.startswith(f"{path}/")]:
                del tree[each]
    for path, what in found.items():
        first = what.removeprefix("link:") if what.startswith("link:") else path
        if what not in (DELETED, OPAQUE, FOLDER):
            tree[path] = (found[first] if first != path else what, first)
    return tree


@given(STEPS)
@settings(max_examples=400, deadline=None)
def test_links_are_as_in_the_merged_tree(steps: list[tuple[str, str, str]]) -> None:
    engine = Engine()
    written: list[Step] = []
    for number, (what, path, target) in enumerate(steps):
        if not engine.do(what, path, target, number):
            continue
        form = {
            "file": (path, f"own {number}"), "link": (path, f"link:{target}"),
            "delete": (f"-{path}", ""), "renew": (path, OPAQUE),
        }  # fmt: skip
        written.append(form[what])
    there = stacked(converted(made(*written))[0])
    assert {p: text for p, (text, _) in there.items()} == {
        p: text for p, (text, _) in engine.tree.items()
    }
    layer = engine.own.union(engine.links.values()) & set(there)
    for one in layer:
        for other in layer:
            same = engine.tree[one][1] == engine.tree[other][1]
            assert (there[one][1] == there[other][1]) == same


def test_links_through_symbolic_links_say_what_to_do() -> None:
    layer = made(("n", "link:lib/file"))
    with pytest.raises(ImageError, match="hard link to 'lib/file', which is no file") as error:
        converted(layer, made(("usr", FOLDER), ("usr/file", "x")))
    assert "if 'lib' is a symbolic link" in error.value.hint
    assert "podman export" in error.value.hint
