"""A real Xen hypervisor starts the PC kernel, as PV and as PVH: exported, and by --engine xen.

One host inside QEMU runs everything; each test looks at its part of what was said. The same
payload has the same result as in test_disk_boots.py.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from apppot import kit
from apppot.errors import KitError
from tests.integration import xenhost
from tests.integration.test_disk_boots import BUSYBOX, PAYLOAD, apppot, layer, result

if TYPE_CHECKING:
    from collections.abc import Iterator

SOURCE = Path(__file__).parents[2] / "src/apppot"
KINDS = ("pv", "pvh")
PATIENCE = 150  # seconds that a machine has, of a translated processor's


def _lacking() -> str:
    try:
        for name in (kit.PC_KERNEL, kit.KEEPER, kit.AGENT):
            kit.find().file(name)
    except KitError as error:
        return error.message
    if not BUSYBOX.exists():
        return "there is no /bin/busybox (busybox-static)"
    return xenhost.obstacle()


pytestmark = [
    pytest.mark.skipif(bool(_lacking()), reason=_lacking()),
    pytest.mark.timeout(1200),
]

EXPORTED = """
begin exported KIND
xl create /machine/m.cfg 'type="KIND"' 'memory=256' 'tsc_mode="native"'
n=0; while xl list small-1 >/dev/null 2>&1 && [ $n -lt PATIENCE ]; do n=$((n+1)); sleep 1; done
xl destroy small-1 2>/dev/null
cat /var/log/xen/guest-small-1.log; rm -f /var/log/xen/guest-small-1.log
"""

RUN = """
begin run KIND
export APPPOT_XEN_TYPE=KIND
rm -rf /tmp/job; mkdir /tmp/job; cd /tmp/job; echo input >in.txt; echo gone >gone.txt
printf 'one\\ntwo\\n' | apppot run --engine xen -v --network none --report /tmp/report.json \\
    small:1 -- /bin/sh -c 'cat; cat in.txt; echo out >out.txt; rm gone.txt; echo err >&2; exit 9' \\
    >/tmp/out 2>/tmp/err
echo "status: $?"; echo "stdout: $(cat /tmp/out | tr '\\n' ' ')"; cat /tmp/err
echo "folder: $(ls /tmp/job | tr '\\n' ' ')"; echo "out.txt: $(cat out.txt)"
begin report KIND
cat /tmp/report.json
begin left KIND
xl list; ls -A /tmp | grep apppot-run; ls -A $APPPOT_RUNTIME_DIR; losetup -a
"""
KILLED = """
begin killed
python3 -m apppot run --engine xen --network none --no-job-dir small:1 -- /bin/sleep 1000 &
pid=$!
n=0; until xl list | grep -q apppot- || [ $n -gt PATIENCE ]; do n=$((n+1)); sleep 1; done
xl list; kill -9 $pid
begin pruned
apppot prune; xl list; ls -A /tmp | grep apppot-run; ls -A $APPPOT_RUNTIME_DIR
"""
SETTINGS = """
apppot() { python3 -m apppot "$@"; }
export PYTHONPATH=/apppot APPPOT_KIT=/kit APPPOT_STORE=/store APPPOT_MEMORY=256M
export APPPOT_RUNTIME_DIR=/run/machines PYTHONDONTWRITEBYTECODE=1 TMPDIR=/tmp
begin doctor
apppot doctor xen 2>/dev/null
"""


def script() -> str:
    parts = ['begin() { echo; echo "== $*"; }']
    parts += [EXPORTED.replace("KIND", kind) for kind in KINDS]
    parts += [SETTINGS, *(RUN.replace("KIND", kind) for kind in KINDS), KILLED]
    return "\n".join(parts).replace("PATIENCE", str(PATIENCE)) + "\nbegin end\n"


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What a Xen host has said, by the headings of its parts."""
    folder = tmp_path_factory.mktemp("xen")
    tools = ("sh", "cat", "ip", "awk", "df", "mktemp", "chmod", "mkdir", "grep", "sleep", "rm")
    files = {"bin/busybox": BUSYBOX.read_bytes(), "etc/mark": b"mark\n"}
    (folder / "image.tar").write_bytes(layer(files, tools))
    (folder / "payload").write_bytes(PAYLOAD)
    apppot("import", str(folder / "image.tar"), "small:1", store=folder / "store")
    words = ("export", "small:1", "--format", "xen-cfg", "--output", str(folder / "m.cfg"))
    more = ("--payload", str(folder / "payload"), "--host-folder", "/machine")
    apppot(*words, *more, store=folder / "store")
    machine = {
        f"machine/{name}": folder / name for name in ("m.cfg", "m.raw", "m.vmlinuz", "m.initramfs")
    }
    own = {"apppot/apppot": SOURCE, "store": folder / "store", "kit": Path(kit.find().path)}
    host = xenhost.build(folder, {"test/run": script().encode(), **machine, **own})
    text = xenhost.run(host, timeout=900)
    pieces = re.split(r"^== (.*)$", text, flags=re.MULTILINE)
    yield dict(zip(pieces[1::2], pieces[2::2], strict=True))
    for path in folder.iterdir():
        if path.is_file():
            path.unlink()


@pytest.mark.parametrize("kind", KINDS)
def test_an_exported_machine_runs_its_payload(kind: str, said: dict[str, str]) -> None:
    text = said[f"exported {kind}"]
    found = result(text)
    assert found["status"] == 7, text
    assert found["signal"] is None
    for line in ("to standard output", "to standard error", "mark"):
        assert f"\n{line}\n" in text


@pytest.mark.parametrize("kind", KINDS)
def test_the_engine_runs_a_payload_with_its_folder(kind: str, said: dict[str, str]) -> None:
    text = said[f"run {kind}"]
    assert "\nstatus: 9\n" in text, text
    assert "\nstdout: one two input \n" in text
    assert "\nerr\n" in text
    assert "engine xen" in text
    assert "\nfolder: in.txt out.txt \n" in text
    assert "\nout.txt: out\n" in text
    report = json.loads(said[f"report {kind}"])
    assert report["machine"]["engine"] == "xen"


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_is_left_behind(kind: str, said: dict[str, str]) -> None:
    lines = said[f"left {kind}"].strip().splitlines()
    assert [line.split()[0] for line in lines] == ["Name", "Domain-0"], lines


def test_what_a_killed_launcher_leaves_is_pruned(said: dict[str, str]) -> None:
    assert re.search(r"^apppot-[0-9a-f]{8} ", said["killed"], re.MULTILINE), said["killed"]
    lines = said["pruned"].strip().splitlines()
    assert "Domain-0" in said["pruned"]
    assert not [line for line in lines if "apppot-" in line and "pruned" not in line], lines


def test_doctor_finds_the_host(said: dict[str, str]) -> None:
    assert re.search(r"^xen +works ", said["doctor"], re.MULTILINE), said["doctor"]
