"""Rebase: a three-way merge by path, in which nothing that one side alone has changed is lost."""

from __future__ import annotations

import tarfile
import tempfile

from hypothesis import given, settings

from apppot.image import entries, rebase, tarstream, tartree
from apppot.image.rebase import Take
from apppot.image.tarread import Source
from tests.unit.changes_archives import LINK, archive
from tests.unit.test_image_merging import _apply, layer

Tree = dict[str, bytes | None]
Layer = list[tuple[str, bytes | None]]


def tree_of(base: Layer, *more: Layer) -> Tree:
    found: Tree = {}
    for each in (base, *more):
        _apply(found, each)
    return found


def rebased(
    old: Tree, changes: Layer, new: Tree, take: Take | None = None
) -> tuple[Tree, set[str]]:
    """Return the new base with the moved changes on it, and the conflicts."""
    layer, conflicts = planned(old, changes, new, take)
    found = dict(new)
    _apply(found, layer)
    return found, conflicts


def moved(old: Tree, changes: Layer, new: Tree) -> Layer:
    """Return the moved changes."""
    return planned(old, changes, new, None)[0]


def planned(old: Tree, changes: Layer, new: Tree, take: Take | None) -> tuple[Layer, set[str]]:
    """Return the moved changes, and the conflicts."""
    listings = [entries.of_archive(archive(*sorted(tree.items())))[0] for tree in (old, new)]
    with archive(*changes) as file, tempfile.TemporaryFile() as target:
        source = Source(file)
        tree = tartree.read(source, None)
        own, _, _ = entries.of_tree(source, tree)
        plan = rebase.plan(tree, own, listings[0], listings[1], take)
        tarstream.write_tree(source, plan.tree, target)
        target.seek(0)
        with tarfile.open(fileobj=target) as tar:
            layer: Layer = []
            for member in tar:
                data = tar.extractfile(member) if member.isfile() else None
                if member.islnk():
                    layer.append((member.name, LINK + member.linkname.encode()))
                elif member.name != ".":
                    layer.append((member.name, data.read() if data else None))
    return layer, {entries.text(key) for key in plan.conflicts}


def test_what_one_side_changed_is_kept() -> None:
    old: Tree = {"a": b"1", "b": b"1", "c": b"1", "d": None, "d/x": b"1"}
    changes: Layer = [("a", b"2"), (".wh.c", b""), ("d", None), ("d/n", b"new")]
    new: Tree = {**old, "b": b"3", "d/x": b"4", "e": b"5"}
    found, conflicts = rebased(old, changes, new)
    assert conflicts == set()
    assert found == {"a": b"2", "b": b"3", "d": None, "d/x": b"4", "d/n": b"new", "e": b"5"}


def test_what_both_changed_is_a_conflict() -> None:
    old: Tree = {"a": b"1", "b": b"1", "c": b"1", "same": b"1"}
    changes: Layer = [("a", b"2"), (".wh.b", b""), ("c", b"2"), ("same", b"9"), ("n", b"1")]
    new: Tree = {"a": b"3", "b": b"3", "same": b"9", "n": b"2"}
    assert rebased(old, changes, new)[1] == {"a", "b", "c", "n"}
    ours = rebased(old, changes, new, Take.OURS)[0]
    assert ours == {"a": b"2", "c": b"2", "same": b"9", "n": b"1"}
    theirs = rebased(old, changes, new, Take.THEIRS)[0]
    assert theirs == {"a": b"3", "b": b"3", "same": b"9", "n": b"2"}


def test_a_file_that_is_as_before_follows_the_new_base() -> None:
    old: Tree = {"a": b"1", "d": None, "d/b": b"1"}
    changes: Layer = [("a", b"1"), ("d", None), ("d/b", b"1")]
    new: Tree = {"a": b"2"}
    assert rebased(old, changes, new) == (new, set())


def test_a_file_of_a_replaced_folder_is_one_that_was_made() -> None:
    old: Tree = {"d": None, "d/b": b"1"}
    changes: Layer = [("d", None), ("d/.wh..wh..opq", b""), ("d/b", b"1")]
    assert rebased(old, changes, {**old, "d/b": b"2"})[1] == {"d/b"}


def test_a_file_that_got_one_more_name_stays_one_file() -> None:
    old: Tree = {"a": b"1"}
    changes: Layer = [("a", b"1"), ("z", LINK + b"a")]
    assert moved(old, changes, {**old, "b": b"2"}) == changes
    assert rebased(old, changes, {"a": b"2"})[1] == {"a"}


def test_a_folder_that_was_replaced_hides_what_any_base_has_in_it() -> None:
    old: Tree = {"d": None, "d/s": None, "d/s/x": b"1", "d/y": b"1"}
    changes: Layer = [("d", None), ("d/.wh..wh..opq", b""), ("d/z", b"2")]
    more: Tree = {"d/new": b"3", "d/s/new": b"3", "d/t": None, "d/t/new": b"3"}
    found, conflicts = rebased(old, changes, {**old, **more})
    assert found == {"d": None, "d/z": b"2"}
    assert conflicts == set()
    # On the base after it, too.
    again, _ = rebased({**old, **more}, moved(old, changes, {**old, **more}), {"d/later": b"4"})
    assert again == {"d": None, "d/z": b"2"}


def test_what_the_new_base_changes_in_a_folder_that_was_replaced() -> None:
    old: Tree = {"d": None, "d/x": b"1", "d/y": b"1", "d/s": None, "d/s/x": b"1"}
    changes: Layer = [("d", None), ("d/.wh..wh..opq", b""), ("d/z", b"2")]
    new: Tree = {**old, "d/x": b"7", "d/new": b"3", "d/s/new": b"3"}
    assert rebased(old, changes, new)[1] == {"d/x"}
    assert rebased(old, changes, new, Take.OURS)[0] == {"d": None, "d/z": b"2"}
    theirs = rebased(old, changes, new, Take.THEIRS)[0]
    assert theirs == {"d": None, "d/z": b"2", "d/x": b"7"}


def test_a_folder_that_was_replaced_and_is_none_any_more() -> None:
    old: Tree = {"d": None, "d/x": b"1"}
    changes: Layer = [("d", None), ("d/.wh..wh..opq", b""), ("d/z", b"2")]
    assert rebased(old, changes, {})[0] == {"d": None, "d/z": b"2"}
    new: Tree = {"d": b"file"}
    assert rebased(old, changes, new)[1] == {"d"}
    assert rebased(old, changes, new, Take.OURS)[0] == {"d": None, "d/z": b"2"}
    assert rebased(old, changes, new, Take.THEIRS)[0] == new


def test_a_deleted_folder_in_which_the_new_base_has_more() -> None:
    old: Tree = {"d": None, "d/x": b"1"}
    new: Tree = {**old, "d/y": b"1"}
    changes: Layer = [(".wh.d", b"")]
    assert rebased(old, changes, new)[1] == {"d/y"}
    assert rebased(old, changes, new, Take.OURS)[0] == {}
    assert "d/y" in rebased(old, changes, new, Take.THEIRS)[0]


@given(layer(), layer(), layer())
@settings(max_examples=400, deadline=None)
def test_without_conflicts_it_is_a_merge(base: Layer, changes: Layer, update: Layer) -> None:
    old = tree_of(base)
    ours, new = tree_of(base, changes), tree_of(base, update)
    found, conflicts = rebased(old, changes, new)
    if conflicts:
        return
    wrong = {}
    mark = "/.wh..wh..opq"
    replaced = tuple(name.removesuffix(mark) + "/" for name, _ in changes if name.endswith(mark))
    for path in {*old, *ours, *new, *found}:
        was, own, now = (tree.get(path, "none") for tree in (old, ours, new))
        if None in (was, own, now):
            continue  # folders come and go with what is in them
        expected = own if path.startswith(replaced) or own != was else now
        if found.get(path, "none") != expected:
            wrong[path] = (was, own, now, found.get(path, "none"))
    assert wrong == {}


@given(layer(), layer(), layer())
@settings(max_examples=200, deadline=None)
def test_folders_that_were_replaced_are_ours(base: Layer, changes: Layer, update: Layer) -> None:
    old = tree_of(base)
    ours, new = tree_of(base, changes), tree_of(base, update)
    found, _ = rebased(old, changes, new, Take.OURS)
    mark = "/.wh..wh..opq"
    for folder in [name.removesuffix(mark) for name, _ in changes if name.endswith(mark)]:
        there, wanted = (
            {path: data for path, data in tree.items() if path.startswith(f"{folder}/")}
            for tree in (found, ours)
        )
        assert there == wanted


@given(layer(), layer())
@settings(max_examples=200, deadline=None)
def test_on_the_same_base_nothing_changes(base: Layer, changes: Layer) -> None:
    old = tree_of(base)
    found, conflicts = rebased(old, changes, old)
    assert conflicts == set()
    files = {path: data for path, data in found.items() if data is not None}
    ours = tree_of(base, changes)
    assert files == {path: data for path, data in ours.items() if data is not None}
