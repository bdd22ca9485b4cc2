"""A real Xen hypervisor starts the PC kernel, as PV and as PVH: exported, and by --engine xen.

One host inside QEMU runs everything; each test looks at its part of what was said. The same
payload has the same result as in test_disk_boots.py.
"""

from __future__ import annotations

import os
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


def script() -> str:
    parts = ['begin() { echo; echo "== $*"; }']
    parts += [EXPORTED.replace("KIND", kind) for kind in KINDS]
    return "\n".join(parts).replace("PATIENCE", str(PATIENCE)) + "\nbegin end\n"


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """What a Xen host has said, by the headings of its parts."""
    folder = tmp_path_factory.mktemp("xen")
    tools = ("sh", "cat", "ip", "awk", "df", "mktemp", "chmod", "mkdir", "grep", "sleep")
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
    host = xenhost.build(folder, {"test/run": script().encode(), **machine})
    text = xenhost.run(host, timeout=900)
    if keep := os.environ.get("APPPOT_TEST_XEN_LOG"):
        Path(keep).write_text(text)
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
