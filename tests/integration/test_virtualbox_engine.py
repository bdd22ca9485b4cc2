"""The engine virtualbox runs payloads on a PC like VirtualBox's: QEMU stands in for it.

VirtualBox itself needs its driver. What is real here: the disk that joins files, its boot loader,
the agent on a serial port, folders in and out, and the end. test_virtualbox_tools.py has the real
VBoxManage make the same machine.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from apppot import kit
from tests.integration.test_disk_boots import BUSYBOX, QEMU, apppot, lacking, layer

_LACKING = lacking(kit.PC_KERNEL, kit.BIOS_LOADER)
pytestmark = [
    pytest.mark.skipif(bool(_LACKING), reason=_LACKING),
    pytest.mark.timeout(600),
]

MANAGE = """#!PYTHON
import json, os, sys
log = "PLACE/calls"
with open(log, "a") as file:
    file.write(json.dumps([sys.argv[1:], os.environ["VBOX_USER_HOME"]]) + "\\n")
if sys.argv[1] == "controlvm":
    sys.exit(1)
"""
# The disk as VirtualBox reads its description, and a PC of the same parts.
HEADLESS = """#!PYTHON
import json, os, re, shutil, sys
calls = [json.loads(line) for line in open("PLACE/calls")]
words = [word for call, _ in calls for word in call]
after = lambda *names: words[words.index(names[0]) + len(names)]
description = after("--medium")
folder = os.path.dirname(description)
raw = os.path.join(folder, "joined.raw")
with open(raw, "wb") as disk:
    for line in open(description):
        found = re.match(r'(RW|RDONLY) (\\d+) FLAT "(.*)" 0', line)
        if found:
            with open(os.path.join(folder, found[3]), "rb") as part:
                begin = disk.tell()
                shutil.copyfileobj(part, disk)
                assert disk.tell() - begin == int(found[2]) * 512
os.execv("QEMU", ["QEMU", "-accel", "tcg", "-m", after("--memory"), "-nodefaults",
    "-display", "none", "-no-reboot", "-smp", after("--cpus"),
    "-chardev", "socket,id=serial,path=" + after("--uart-mode1", "client"),
    "-serial", "chardev:serial", "-serial", "file:" + after("--uart-mode2", "file"),
    "-drive", "file=" + raw + ",format=raw,if=none,id=disk", "-device", "ahci,id=sata",
    "-device", "ide-hd,drive=disk,bus=sata.0", "-netdev", "user,id=net",
    "-device", "e1000,netdev=net"])
"""
START = """
import sys
from apppot.machine import virtualbox
virtualbox.DRIVER = "/dev/null"
from apppot.__main__ import entry
sys.exit(entry())
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store, and programs that stand in for VirtualBox's."""
    folder = tmp_path_factory.mktemp("virtualbox")
    tools = ("sh", "cat", "sleep", "rm", "mkdir", "ip", "grep", "awk", "id")
    files = {"bin/busybox": BUSYBOX.read_bytes()}
    (folder / "image.tar").write_bytes(layer(files, tools))
    apppot("import", str(folder / "image.tar"), "small:1", store=folder / "store")
    (folder / "bin").mkdir()
    for name, text in (("VBoxManage", MANAGE), ("VBoxHeadless", HEADLESS)):
        program = folder / "bin" / name
        for word, value in (("PYTHON", sys.executable), ("QEMU", QEMU), ("PLACE", folder)):
            text = text.replace(word, str(value))  # noqa: PLW2901
        program.write_text(text)
        program.chmod(0o755)
    for name in ("runtime", "scratch"):
        (folder / name).mkdir(mode=0o700)
    (folder / "start.py").write_text(START)
    return folder


@pytest.fixture
def environment(place: Path) -> dict[str, str]:
    (place / "calls").unlink(missing_ok=True)
    return {
        **os.environ,
        "PATH": f"{place}/bin:{os.environ['PATH']}",
        "APPPOT_STORE": str(place / "store"),
        "APPPOT_RUNTIME_DIR": str(place / "runtime"),
        "APPPOT_TMPDIR": str(place / "scratch"),
        "APPPOT_MEMORY": "256M",
    }


def words(place: Path, *more: str) -> list[str]:
    return [sys.executable, str(place / "start.py"), "run", "--engine", "virtualbox", *more]


def left(place: Path) -> list[str]:
    return [name for part in ("runtime", "scratch") for name in os.listdir(place / part)]


SCRIPT = """
cat; cat in.txt; mkdir new; echo out >new/out.txt; rm gone.txt; echo err >&2
cat /data/fixed; echo changed >/data/fixed; id -u
ip -4 -o addr show eth0 | awk '{print $4}'; grep nameserver /etc/resolv.conf; exit 9
"""


def test_a_payload_with_its_folders_streams_and_status(
    place: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    job = tmp_path / "job"
    job.mkdir()
    (job / "in.txt").write_text("input\n")
    (job / "gone.txt").write_text("gone\n")
    (tmp_path / "fixed").write_text("fixed\n")
    done = subprocess.run(
        words(
            *(place, "--job-dir", str(job), "--bind", f"{tmp_path}/fixed:/data/fixed:ro"),
            *("--scratch", "64M", "--report", str(tmp_path / "report"), "small:1"),
            *("--", "/bin/sh", "-c", SCRIPT),
        ),
        env=environment,
        input=b"one\ntwo\xff\0",
        capture_output=True,
        check=False,
    )
    assert done.returncode == 9, done.stderr.decode()
    assert done.stdout == (
        b"one\ntwo\xff\0input\nfixed\n%d\n10.0.2.15/24\nnameserver 10.0.2.3\n" % os.getuid()
    )
    assert done.stderr == b"err\n"
    assert sorted(path.name for path in job.iterdir()) == ["in.txt", "new"]
    assert (job / "new/out.txt").read_text() == "out\n"
    assert (tmp_path / "fixed").read_text() == "fixed\n"
    report = json.loads((tmp_path / "report").read_text())
    assert report["machine"]["engine"] == "virtualbox"
    assert left(place) == []


def test_what_a_killed_launcher_leaves_is_pruned(place: Path, environment: dict[str, str]) -> None:
    command = words(place, "--network", "none", "--no-job-dir", "small:1", "--", "/bin/sleep", "99")
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as launcher:
        deadline = time.monotonic() + 60
        while not list((place / "scratch").glob("*/joined.raw")):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        launcher.send_signal(signal.SIGKILL)
    assert left(place)
    before = (place / "calls").read_text().count("controlvm")
    pruned = [sys.executable, "-m", "apppot", "prune"]
    subprocess.run(pruned, env=environment, check=True, capture_output=True)
    assert left(place) == []
    calls = (place / "calls").read_text()
    assert calls.count("controlvm") == before + 1
    assert '"poweroff"' in calls
    # QEMU, unlike VirtualBox, notices the end of its serial port's other side only by itself.
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes()
        except OSError:
            continue
        if b"joined.raw" in line and os.fsencode(place) in line:
            os.kill(int(path.parent.name), signal.SIGKILL)


def test_saving_and_folders_exclude_each_other(place: Path, environment: dict[str, str]) -> None:
    done = subprocess.run(
        words(place, "--save", "new:1", "small:1", "--", "/bin/true"),
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 125
    assert "--no-job-dir" in done.stderr
    assert left(place) == []
