"""VirtualBox's own tools take what we make: machines, joined disks, exported appliances.

They come from Debian's unstable suite, unpacked and not installed, and run without the driver.
"""

from __future__ import annotations

import hashlib
import io
import re
import shutil
import subprocess
import tarfile
from typing import TYPE_CHECKING

import pytest

from apppot import kit
from apppot.errors import KitError
from apppot.image import debsources
from apppot.machine import virtualbox
from apppot.machine.model import LayerFile, MachineSpec, Network
from apppot.machine.rundir import RunDir
from tests.integration import xenhost
from tests.integration.test_disk_boots import BUSYBOX, apppot, layer

if TYPE_CHECKING:
    from pathlib import Path

HERE = "/machine"  # where the tools see the test's folder


def _lacking() -> str:
    try:
        for name in (kit.PC_KERNEL, kit.KEEPER, kit.BIOS_LOADER, kit.EFI_LOADER):
            kit.find().file(name)
    except KitError as error:
        return error.message
    for program in ("bwrap", "mmdebstrap", "qemu-img"):
        if not shutil.which(program):
            return f"there is no {program}"
    if not debsources.host_targets():
        return "this computer's apt has no mirror"
    return "" if BUSYBOX.exists() else "there is no /bin/busybox (busybox-static)"


pytestmark = [
    pytest.mark.skipif(bool(_lacking()), reason=_lacking()),
    pytest.mark.timeout(900),
]


class Tools:
    """VBoxManage of an unpacked Debian, in a sandbox that has nothing else but `folder`."""

    def __init__(self, tree: Path, folder: Path) -> None:
        self.tree, self.folder = tree, folder
        (folder / "tmp").mkdir(exist_ok=True)

    def __call__(self, *words: str) -> subprocess.CompletedProcess[str]:
        # fmt: off
        sandbox = [
            "bwrap", "--ro-bind", str(self.tree / "usr"), "/usr",
            "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64",
            "--symlink", "usr/bin", "/bin", "--ro-bind", "/etc/passwd", "/etc/passwd",
            "--dev", "/dev", "--proc", "/proc", "--bind", str(self.folder / "tmp"), "/tmp",
            "--bind", str(self.folder), HERE, "--setenv", "HOME", HERE,
            "--setenv", "USER", "tester", "--setenv", "LOGNAME", "tester",
        ]
        # fmt: on
        return subprocess.run(
            [*sandbox, "/usr/lib/virtualbox/VBoxManage", "-q", *words],
            capture_output=True,
            text=True,
            check=False,
            timeout=120,
        )

    def must(self, *words: str) -> str:
        """Call it; it has to succeed."""
        done = self(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def tools(tmp_path_factory: pytest.TempPathFactory) -> Tools:
    folder = tmp_path_factory.mktemp("vbox")
    archive, tree = folder / "packages.tar", folder / "tree"
    old = "--aptopt=Acquire::Check-Valid-Until false"
    components = "--components=main contrib"
    try:
        xenhost.packages("sid", ("virtualbox",), archive, components, old)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"the mirror has no VirtualBox: {error.stderr[-300:]}")
    tree.mkdir()
    subprocess.run(["tar", "-C", tree, "-xf", archive, "./usr"], check=True)
    archive.unlink()
    place = folder / "place"
    place.mkdir()
    found = Tools(tree, place)
    found.must("list", "vms")
    return found


@pytest.fixture(scope="module")
def store(tools: Tools) -> Path:
    archive = tools.folder / "image.tar"
    archive.write_bytes(layer({"bin/busybox": BUSYBOX.read_bytes()}, ("sh",)))
    apppot("import", str(archive), "small:1", store=tools.folder / "store")
    return tools.folder / "store"


@pytest.fixture(scope="module")
def ova(tools: Tools, store: Path) -> Path:
    path = tools.folder / "small.ova"
    apppot("export", "small:1", "--format", "ova", "--output", str(path), store=store)
    return path


def test_an_exported_appliance_is_imported_with_its_disk(
    tools: Tools, ova: Path, store: Path
) -> None:
    raw = tools.folder / "disk.raw"
    apppot("export", "small:1", "--format", "raw", "--output", str(raw), store=store)
    import_ = ("--vsys", "0", "--vmname", "imported", "--basefolder", f"{HERE}/machines")
    tools.must("import", f"{HERE}/{ova.name}", *import_)
    about = tools.must("showvminfo", "imported", "--machinereadable")
    for line in ("memory=1024", 'storagecontrollertype0="IntelAhci"', 'nic1="nat"', "cpus=1"):
        assert f"\n{line}\n" in about, about
    assert re.search(r'^nictype1="82540EM"$|^nic1="nat"$', about, re.MULTILINE)
    (disk,) = (tools.folder / "machines/imported").glob("*.vmdk")
    inside = f"{HERE}/machines/imported/{disk.name}"
    tools.must("clonemedium", inside, f"{HERE}/clone.raw", "--format", "RAW")
    assert digest(tools.folder / "clone.raw") == digest(raw)


@pytest.mark.parametrize("form", ["vdi", "vmdk", "vhd"])
def test_other_disks_hold_the_same_bytes(form: str, tools: Tools, store: Path) -> None:
    raw, disk = tools.folder / f"{form}.raw", tools.folder / f"disk.{form}"
    for target in (raw, disk):
        kind = target.suffix[1:]
        apppot("export", "small:1", "--format", kind, "--output", str(target), store=store)
    for _ in range(2):  # the second time it has to have the name that it was registered with
        about = tools.must("showmediuminfo", "disk", f"{HERE}/{disk.name}")
        assert re.search(r"^State: +created$", about, re.MULTILINE), about
    clone = tools.folder / f"{form}.clone"
    tools.must("clonemedium", f"{HERE}/{disk.name}", f"{HERE}/{clone.name}", "--format", "RAW")
    assert digest(clone) == digest(raw)


def digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def changed(ova: Path, target: Path, ending: str, change: bytes | int | None, cut: int = 0) -> None:
    """Copy an appliance with a bit of one member turned over, or its end cut off."""
    with tarfile.open(ova) as source, tarfile.open(target, "w", format=tarfile.USTAR_FORMAT) as out:
        for member in source:
            file = source.extractfile(member)
            assert file
            content = bytearray(file.read())
            if member.name.endswith(ending):
                if change is not None:
                    at = change if isinstance(change, int) else content.index(change)
                    content[at] ^= 1
                content = content[: len(content) - cut]
            member.size = len(content)
            out.addfile(member, io.BytesIO(content))


@pytest.mark.parametrize(
    ("ending", "change", "cut"),
    [
        (".ovf", b"appliance made", 0),
        (".vmdk", 300_000, 0),
        (".vmdk", None, 1 << 20),
    ],
    ids=["description", "disk", "short disk"],
)
def test_a_damaged_appliance_is_refused(
    ending: str, change: bytes | int | None, cut: int, tools: Tools, ova: Path
) -> None:
    bad = tools.folder / "bad.ova"
    changed(ova, bad, ending, change, cut)
    base = ("--vsys", "0", "--vmname", "bad", "--basefolder", f"{HERE}/machines")
    done = tools("import", f"{HERE}/{bad.name}", *base)
    assert done.returncode != 0, done.stdout
    assert re.search(r"VERR_[A-Z_]+", done.stderr), done.stderr
    assert '"bad"' not in tools.must("list", "vms")
    # What is the same but for the damage is taken.
    changed(ova, bad, ending, None)
    tools.must("import", f"{HERE}/{bad.name}", *base)
    tools.must("unregistervm", "bad", "--delete")


def test_the_engines_machine_is_made_and_its_disk_joined(
    tools: Tools, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APPPOT_RUNTIME_DIR", str(tools.folder / "run"))
    monkeypatch.setenv("APPPOT_TMPDIR", str(tools.folder))
    blobs = sorted((store / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    spec = MachineSpec(
        hostname="h",
        layers=(LayerFile(str(blobs[-1])),),
        cpus=2,
        host_cpus=(0,),
        memory=300 << 20,
        scratch=8 << 20,
        network=Network.USER,
    )
    with RunDir.make() as run:
        assert virtualbox.join(spec, kit.find(), run, virtualbox.kernel_arguments(spec))
        folder = tools.folder / f"apppot-run-{run.ident}"
        parts = [folder / name for name in ("head.raw", "part0", "part1", "tail.raw")]
        joined = b"".join(path.read_bytes() for path in parts)
        for part in parts[1:3]:  # links of the host's have no meaning where the tools run
            content = part.read_bytes()
            part.unlink()
            part.write_bytes(content)
        inside = f"{HERE}/{folder.name}"
        serial, console = f"{inside}/serial", f"{inside}/console"
        for _, *words in virtualbox.commands("VBoxManage", "own", spec, inside, serial, console):
            tools.must(*words)
    about = tools.must("showvminfo", "own", "--machinereadable")
    for line in (
        *("memory=300", "cpus=2", 'uart1="0x03f8,4"', f'uartmode1="client,{serial}"'),
        *('uart2="0x02f8,3"', f'uartmode2="file,{console}"', 'nic1="nat"'),
        f'"sata-0-0"="{inside}/disk.vmdk"',
    ):
        assert f"\n{line}\n" in about, about
    clone = f"{inside}/clone.raw"
    tools.must("clonemedium", f"{inside}/disk.vmdk", clone, "--format", "RAW")
    assert (folder / "clone.raw").read_bytes() == joined
