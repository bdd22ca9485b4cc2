"""Images whose layers have hard links to files of the layers below: in, run, and out again."""

from __future__ import annotations

import io
import os
import shutil
import tarfile
from pathlib import Path
from typing import TYPE_CHECKING, Self

import pytest

from tests.integration.registries import publish, serving
from tests.integration.test_registry_exchange import MISSING, SHOW, apppot, call, podman

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {' '.join(MISSING)}"),
    pytest.mark.skipif(os.getuid() != 0, reason="layers with devices and owners need root"),
    pytest.mark.timeout(600),
]
LINKS = "cd /t && stat -c '%i %h %a %u:%g %Y %n' one two sub/three; cat one two sub/three; ls -R ."


@pytest.fixture
def registries(tmp_path: Path) -> Iterator[tuple[str, str]]:
    with serving(str(tmp_path / "r0")) as one, serving(str(tmp_path / "r1")) as two:
        yield one, two


class Layer:
    """A layer's archive in the making."""

    def __init__(self) -> None:
        self.out = io.BytesIO()
        self.tar = tarfile.TarFile(fileobj=self.out, mode="w", format=tarfile.PAX_FORMAT)

    def add(self, name: str, data: bytes = b"", **more: object) -> Self:
        info = tarfile.TarInfo(name)
        info.size, info.mtime, info.mode = len(data), 1_000_000_000, 0o755
        for key, value in more.items():
            setattr(info, key, value)
        self.tar.addfile(info, io.BytesIO(data))
        return self

    def folder(self, name: str, mode: int = 0o755, uid: int = 0) -> Self:
        return self.add(name, type=tarfile.DIRTYPE, mode=mode, uid=uid)

    def link(self, name: str, target: str) -> Self:
        return self.add(name, type=tarfile.LNKTYPE, linkname=target)

    def done(self) -> bytes:
        self.tar.close()
        return self.out.getvalue()


def base() -> Layer:
    layer = Layer().folder("bin").add("bin/busybox", Path("/bin/busybox").read_bytes())
    for name in ("sh", "stat", "cat", "ls", "find", "sort", "md5sum"):
        layer.add(f"bin/{name}", type=tarfile.SYMTYPE, linkname="busybox")
    return layer.folder("tmp", mode=0o1777).folder("t", uid=7, mode=0o711)


def linked() -> list[bytes]:
    """Return layers; `t/one` is in the first, and has two more names by the third."""
    xattr = {"SCHILY.xattr.user.a": "b"}
    lowest = base().add("t/one", b"one\n", mode=0o4750, uid=70_000, gid=5, pax_headers=xattr)
    lowest.add("t/moved", b"moved\n").add("t/[odd]*", b"odd\n").folder("t/sub")
    between = Layer().folder("t", uid=7, mode=0o711).add("t/other", b"other\n")
    links = Layer().link("t/two", "t/one").link("t/sub/three", "t/two")
    links.link("t/here", "t/moved").add("t/.wh.moved").link("t/odd", "./t/[odd]*")
    return [lowest.done(), between.done(), links.done()]


def test_pull_run_and_push(
    registries: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APPPOT_STORE", str(tmp_path / "store"))
    one, two = (f"{host}/test/links:1" for host in registries)
    publish(registries[0], "test/links", linked())
    apppot("pull", "--plain-http", one)
    here = apppot("run", "--network", "none", one, "--", "sh", "-c", LINKS)
    rows = [row.split() for row in here.splitlines()[:3]]
    assert {tuple(row[:-1]) for row in rows} == {(rows[0][0], "3", "4750", "70000:5", "1000000000")}
    assert here.splitlines()[3:6] == ["one"] * 3
    shown = apppot("run", "--network", "none", one, "--", "sh", "-c", SHOW)
    assert "drwx--x--x 7 0 1000000000 0:0 .\n" in shown  # as the lower layers have it
    assert "./moved" not in shown
    assert all(name in shown for name in ("./here", "./odd", "./other"))
    # What is known is not made again, and not taken for the same layer on another base.
    layers = (
        "find",
        f"{tmp_path}/store/blobs",
        "-type",
        "f",
        "-size",
        "+3k",
        "-printf",
        "%f %T@\n",
    )
    before = call(*layers)
    apppot("pull", "--plain-http", one, "--name", "again:1")
    assert call(*layers) == before
    other = [base().add("t/one", b"another\n").add("t/moved").add("t/[odd]*").done(), *linked()[1:]]
    publish(registries[0], "test/other", other)
    apppot("pull", "--plain-http", f"{registries[0]}/test/other:1", "--name", "other:1")
    words = ("--network", "none", "other:1", "--", "cat", "/t/two", "/t/sub/three")
    assert apppot("run", *words) == "another\nanother\n"
    apppot("push", "--plain-http", one, two)
    assert podman(two) == shown
    back = "back:1"
    apppot("pull", "--plain-http", two, "--name", back)
    assert apppot("run", "--network", "none", back, "--", "sh", "-c", SHOW) == shown


def test_load(registries: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("APPPOT_STORE", str(tmp_path / "store"))
    publish(registries[0], "test/links", linked())
    image = f"docker://{registries[0]}/test/links:1"
    for form in ("oci-archive", "docker-archive"):
        file = f"{tmp_path}/{form}.tar"
        call("skopeo", "copy", "-q", "--src-tls-verify=false", image, f"{form}:{file}:x:1")
        apppot("load", "-i", file, "--name", f"{form}:1")
        shown = apppot("run", "--network", "none", f"{form}:1", "--", "sh", "-c", LINKS)
        assert shown.count("\none\n") >= 2
        shutil.rmtree(tmp_path / "store")


def test_links_to_nothing(
    registries: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APPPOT_STORE", str(tmp_path / "store"))
    gone = Layer().add("t/.wh.one").done()
    bad = {
        "never": ([base().done(), Layer().link("t/two", "t/one").done()], "which is no file, here"),
        "deleted between": ([linked()[0], gone, linked()[2]], "which is no file, here"),
        "alone": ([Layer().link("a", "b").done()], "'a' in the archive is a hard link to 'b'"),
        "by the same": (
            [linked()[0], Layer().add("t/.wh.one").link("t/two", "t/one").done()],
            "which the same layer deletes",
        ),
    }
    for number, (layers, message) in enumerate(bad.values()):
        publish(registries[0], f"test/bad{number}", layers)
        name = f"{registries[0]}/test/bad{number}:1"
        with pytest.raises(AssertionError) as error:
            apppot("pull", "--plain-http", name)
        assert message in str(error.value)
        assert "Traceback" not in str(error.value)
    assert apppot("images") == ""


def test_the_agent_gives_each_file_and_folder_once(
    registries: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APPPOT_STORE", str(tmp_path / "store"))
    layer = (
        base().folder("t/d").add("t/d/one").add("t/d/two").folder("t/e").link("t/e/x", "t/d/one")
    )
    layer.add("t/link", type=tarfile.SYMTYPE, linkname="d")
    publish(registries[0], "test/files", [layer.done()])
    apppot("pull", "--plain-http", f"{registries[0]}/test/files:1", "--name", "files:1")
    wanted = ("t/d", "t/d/no", "t/d/one", "t/d/two", "t/e/x", "t/link", "t/link/one", "t/no/no")
    names = " ".join(wanted)
    script = (
        f"for f in {names}; do printf '%s\\0' $f; done | /proc/1/exe archive files | busybox tar -t"
    )
    shown = apppot("run", "--network", "none", "--root", "files:1", "--", "sh", "-c", script)
    assert shown.split() == ["t", "t/d", "t/d/one", "t/d/two", "t/e", "t/e/x", "t/link"]
