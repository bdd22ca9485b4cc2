"""What machines have changed, moved to a newer base, taken from one that runs, and exported."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.skipif(not shutil.which("busybox"), reason="not installed: busybox"),
    pytest.mark.timeout(300),
]
TOOLS = ("sh", "cat", "ls", "mkdir", "rm", "mv", "chmod", "stat", "ln", "find", "sort", "touch")
OLD = {"etc/conf": "1", "etc/other": "1", "opt/tool/a": "1", "opt/tool/sub/b": "1", "etc/gone": "1"}
# Files that the next release of the base has otherwise, or more.
NEW = {**OLD, "etc/other": "2", "opt/tool/new": "2", "opt/tool/sub/new": "2", "opt/more": "2"}
CHANGE = """
set -e
echo -n ours >/etc/conf; rm /etc/gone
rm -r /opt/tool; mkdir /opt/tool; echo -n ours >/opt/tool/own
"""
LOOK = "cd / && find etc opt -type f | sort | while read f; do echo $f $(cat $f); done"


def try_apppot(*words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "apppot", *words]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


def apppot(*words: str) -> str:
    done = try_apppot(*words)
    assert done.returncode == 0, f"{words}: {done.stderr}"
    return done.stdout


def machine(image: str, script: str, *options: str) -> str:
    words = ("--network", "none", "--root", "--no-job-dir", *options)
    return apppot("run", *words, image, "--", "sh", "-c", script)


def seen(image: str, *options: str) -> dict[str, str]:
    lines = machine(image, LOOK, *options).splitlines()
    ours = ("etc/hosts", "etc/passwd", "etc/group", "etc/resolv.conf", "etc/hostname")
    rows = [line.split(" ", 1) for line in lines if not line.startswith(ours)]
    return {row[0]: row[1] for row in rows}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make a store with two releases of a base, and changes of the first."""
    monkeypatch.setenv("APPPOT_STORE", str(tmp_path / "store"))
    for number, files in enumerate((OLD, NEW), 1):
        root = tmp_path / f"root{number}"
        (root / "bin").mkdir(parents=True)
        shutil.copy("/bin/busybox", root / "bin/busybox")
        for name in TOOLS:
            (root / "bin" / name).symlink_to("busybox")
        for name, text in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_text(text)
        apppot("import", str(root), f"base:{number}")
    machine("base:1", CHANGE, "--save", "own:1")
    return tmp_path


OWN = {"etc/conf": "ours", "etc/other": "1", "opt/tool/own": "ours"}
MOVED = {**OWN, "etc/other": "2", "opt/more": "2"}


@pytest.mark.parametrize("form", ["image", "file"])
def test_changes_are_moved_to_a_newer_base(form: str, folder: Path) -> None:
    assert seen("own:1") == OWN
    if form == "image":
        apppot("rebase", "own:1", "base:2", "own:2")
        assert seen("own:2") == MOVED
        shown = json.loads(apppot("changes", "show", "--json", "own:2"))
        assert shown["base"]["name"] == "base:2"
        return
    first, second = str(folder / "1.changes"), str(folder / "2.changes")
    apppot("changes", "save", first, "own:1")
    apppot("rebase", first, "base:2", "-o", second)
    assert seen("base:2", "--changes", second) == MOVED
    assert try_apppot("run", "--changes", second, "base:1", "--", "true").returncode == 125
    assert seen("base:1", "--changes", first) == OWN


def test_an_image_that_came_without_its_base_is_moved(folder: Path) -> None:
    archive = str(folder / "own.tar")
    apppot("save", "own:1", "-o", archive)
    apppot("load", "-i", archive, "--name", "came:1")
    done = try_apppot("rebase", "came:1", "base:2", "moved:1")
    assert (done.returncode, "--base" in done.stderr) == (1, True)
    apppot("rebase", "came:1", "base:2", "moved:1", "--base", "base:1")
    assert seen("moved:1") == MOVED
    apppot("changes", "save", str(folder / "own.changes"), "own:1")
    both = try_apppot("rebase", str(folder / "own.changes"), "base:2", "x:1", "--base", "base:1")
    assert (both.returncode, "leave --base out" in both.stderr) == (2, True)


def test_conflicts_write_nothing_unless_one_side_is_taken(folder: Path) -> None:
    machine("base:2", "echo -n 3 >/etc/conf; echo -n 3 >/opt/tool/a", "--save", "base:3")
    done = try_apppot("rebase", "own:1", "base:3", "own:3")
    assert done.returncode == 3
    assert {"'etc/conf'", "'opt/tool/a'"} <= set(done.stderr.replace("\n", " ").split())
    assert "opt/tool/new" not in done.stderr
    assert try_apppot("inspect", "own:3").returncode != 0
    apppot("rebase", "own:1", "base:3", "ours:3", "--take", "ours")
    assert seen("ours:3") == MOVED
    apppot("rebase", "own:1", "base:3", "theirs:3", "--take", "theirs")
    assert seen("theirs:3") == {**MOVED, "etc/conf": "3", "opt/tool/a": "3"}


def test_changes_of_a_running_machine(folder: Path) -> None:
    options = ("--network", "none", "--root", "--no-job-dir", "base:1", "--", "sh", "-c")
    script = f"{CHANGE} echo up; read word; echo -n later >/etc/later; echo $word"
    argv = [sys.executable, "-m", "apppot", "run", *options, script]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdin is not None
        assert run.stdout is not None
        try:
            assert run.stdout.readline() == "up\n"
            machines = json.loads(apppot("ps", "--json"))
            own = [m["id"] for m in machines if m["pid"] == run.pid]
            file = str(folder / "running.changes")
            apppot("changes", "save", file, own[0])
            out, _ = run.communicate("on\n", timeout=60)
        finally:
            run.terminate()
    assert (run.returncode, out) == (0, "on\n")
    assert seen("base:1", "--changes", file) == OWN
    apppot("changes", "apply", file, "base:1", "applied:1")
    assert seen("applied:1") == OWN


def test_an_exported_image_runs_elsewhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "ln /etc/conf /etc/hard; chmod 4711 /etc/conf; mkdir -p /opt/deep; ln -s a /opt/deep/l"
    machine("own:1", script, "--save", "own:2")
    look = "stat -c '%i %h %a %n' /etc/conf /etc/hard; find /opt | sort; cat /etc/hard"
    before = [seen("own:2"), machine("own:2", look).split("\n")[2:]]
    files = {form: str(folder / f"out.{form}") for form in ("oci", "tar")}
    for form, file in files.items():
        apppot("export", "--format", form, "-o", file, "own:2")
    monkeypatch.setenv("APPPOT_STORE", str(folder / "elsewhere"))
    apppot("load", "-i", files["oci"], "--name", "oci:1")
    apppot("import", files["tar"], "tar:1")
    for name, layers in (("oci:1", 3), ("tar:1", 1)):
        assert len(json.loads(apppot("inspect", name))["layers"]) == layers
        assert [seen(name), machine(name, look).split("\n")[2:]] == before
        (one, links, mode, _), (other, *_) = [
            line.split() for line in machine(name, look).splitlines()[:2]
        ]
        assert (one, links, mode) == (other, "2", "4711")
    if shutil.which("umoci") and shutil.which("skopeo") and os.getuid() == 0:
        image, out = f"oci-archive:{files['oci']}", f"{folder}/layout"
        subprocess.run(["skopeo", "copy", "-q", image, f"oci:{out}:x"], check=True)
        subprocess.run(["umoci", "unpack", "--image", f"{out}:x", f"{folder}/b"], check=True)
        assert Path(f"{folder}/b/rootfs/etc/hard").stat().st_nlink == 2
        assert os.listdir(f"{folder}/b/rootfs/opt/tool") == ["own"]


@pytest.mark.skipif(not shutil.which("sqfstar"), reason="not installed: squashfs-tools")
@pytest.mark.parametrize("form", ["squashfs", "sif"])
def test_an_exported_squashfs_is_imported(form: str, folder: Path) -> None:
    """Also one that ends within a sector, as nearly all do: a SIF file has it in its middle."""
    file = str(folder / "out")
    apppot("export", "--format", form, "-o", file, "own:1")
    apppot("import", file, "back:1")
    assert seen("back:1") == seen("own:1")
    assert machine("back:1", "stat -c %a:%u /") == machine("own:1", "stat -c %a:%u /")
