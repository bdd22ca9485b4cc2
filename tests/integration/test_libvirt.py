"""What `export --format libvirt-xml` writes libvirt starts, in an ordinary user's session."""

from __future__ import annotations

import contextlib
import grp
import os
import pwd
import select
import shutil
import subprocess
import tempfile
import time
import tty
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from apppot import kit
from tests.integration.test_disk_boots import apppot, lacking, result
from tests.integration.test_disk_boots import store as _store

if TYPE_CHECKING:
    from collections.abc import Iterator

store = _store  # a fixture
LIBVIRTD = shutil.which("libvirtd", path=f"{os.environ['PATH']}:/usr/sbin")
NAME = "small-1"
PAYLOAD = "#!/bin/sh\necho the sum is $((40 + 2))\nexit 7\n"
PATIENCE = 120  # seconds


def _missing() -> str:
    if LIBVIRTD is None or shutil.which("virsh") is None:
        return "there is no libvirtd or no virsh (libvirt-daemon, libvirt-clients)"
    drivers = Path("/usr/lib").glob("**/libvirt/connection-driver/libvirt_driver_qemu.so")
    if not (next(drivers, None) or Path("/usr/lib64/libvirt/connection-driver").exists()):
        return "libvirtd has no driver for QEMU (libvirt-daemon-driver-qemu)"
    try:
        pwd.getpwuid(os.geteuid()), grp.getgrgid(os.getegid())
    except KeyError as error:
        return f"libvirtd does not start for a user or group without a name ({error.args[0]})"
    return lacking(kit.PC_KERNEL, kit.KEEPER, kit.BIOS_LOADER)


pytestmark = pytest.mark.skipif(bool(_missing()), reason=_missing())


class Session:
    """A libvirtd of an ordinary user's, with everything that it writes in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        runtime, settings = folder / "run", folder / "config"
        runtime.mkdir(mode=0o700)
        (settings / "libvirt").mkdir(parents=True)
        # Otherwise libvirtd starts another daemon, which stays for two minutes.
        (settings / "libvirt" / "qemu.conf").write_text('stdio_handler = "file"\n')
        # fmt: off
        self._prefix = [
            "env", "-i", "LC_ALL=C", f"PATH={os.environ['PATH']}:/usr/sbin", f"HOME={folder}",
            f"XDG_RUNTIME_DIR={runtime}", f"XDG_CONFIG_HOME={settings}",
            f"XDG_CACHE_HOME={folder}/cache", f"XDG_DATA_HOME={folder}/data",
        ]
        # fmt: on
        if os.geteuid() == 0:  # root has no session
            nobody = pwd.getpwnam("nobody")
            ids = (f"--reuid={nobody.pw_uid}", f"--regid={nobody.pw_gid}", "--clear-groups")
            self._prefix[:0] = ["setpriv", *ids]
            for path in (folder, *folder.rglob("*")):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)
        self.daemon = subprocess.Popen(
            [*self._prefix, str(LIBVIRTD)],
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )

    def virsh(self, *words: str, check: bool = True) -> str:
        """Return what virsh says."""
        uri = ("--connect", "qemu:///session", "--quiet")
        done = subprocess.run(
            [*self._prefix, "virsh", *uri, *words],
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        assert done.returncode == 0 or not check, f"virsh {words[0]}: {done.stderr}"
        return done.stdout.strip()

    def wait(self) -> None:
        """Wait until it answers."""
        end = time.monotonic() + PATIENCE
        while not list((self.folder / "run").rglob("*-sock")):
            assert time.monotonic() < end
            assert self.daemon.poll() is None, self.daemon.communicate()
            time.sleep(0.1)

    def close(self) -> None:
        """End the machine, and the daemon."""
        self.virsh("destroy", NAME, check=False)
        self.daemon.terminate()
        self.daemon.communicate(timeout=PATIENCE)


@pytest.fixture
def session() -> Iterator[Session]:
    with contextlib.ExitStack() as stack:
        # A socket's name has to be short, and another user must reach what is above it.
        folder = Path(tempfile.mkdtemp(prefix="apppot-virt-", dir="/tmp"))
        stack.callback(shutil.rmtree, folder)
        made = Session(folder)
        stack.callback(made.close)
        made.wait()
        yield made


def test_the_domain_runs_its_payload(store: Path, session: Session) -> None:
    payload = session.folder / "payload"
    payload.write_text(PAYLOAD)
    path = session.folder / "small.xml"
    words = ["export", "small:1", "--format", "libvirt-xml", "--output", str(path)]
    apppot(*words, "--payload", str(payload), store=store)
    # What the how-to says for hosts without KVM.
    text = path.read_text().replace("<domain type='kvm'>", "<domain type='qemu'>")
    path.write_text(text.replace("mode='host-passthrough'", "mode='maximum'"))
    if os.geteuid() == 0:
        nobody = pwd.getpwnam("nobody")
        os.chown(session.folder / "small.raw", nobody.pw_uid, nobody.pw_gid)
    session.virsh("define", str(path))
    session.virsh("start", NAME, "--paused")
    console = os.open(session.virsh("ttyconsole", NAME), os.O_RDWR | os.O_NOCTTY)
    try:
        tty.setraw(console)
        session.virsh("resume", NAME)
        said = _read(console, b"apppot-result {")
    finally:
        os.close(console)
    assert "the sum is 42" in said
    found = result(said)
    assert (found["status"], found["signal"], found["failure"]) == (7, None, None)
    _until(session, "shut off")
    session.virsh("undefine", NAME)
    assert session.virsh("list", "--all", "--name") == ""


def _read(console: int, mark: bytes) -> str:
    """Return what a serial port says up to the end of the line that holds the mark."""
    got, end = b"", time.monotonic() + PATIENCE
    while b"\n" not in got.partition(mark)[2]:
        left = end - time.monotonic()
        assert left > 0, got
        if select.select([console], [], [], left)[0]:
            piece = os.read(console, 1 << 16)
            assert piece, got
            got += piece
    return got.decode(errors="replace").replace("\r\n", "\n")


def _until(session: Session, state: str) -> None:
    end = time.monotonic() + PATIENCE
    while (found := session.virsh("domstate", NAME)) != state:
        assert time.monotonic() < end, found
        time.sleep(0.5)
