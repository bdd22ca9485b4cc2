"""GC3Pie's own AppPotApplication runs jobs by apppot-start, as it did with the original.

GC3Pie is installed from PyPI into an environment of its own, which is kept in the cache; where that
is impossible, the tests are skipped, and the command lines that it generates are tested by
tests/unit/test_legacy.py and tests/contract/test_original_commands.py.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from apppot import kit, paths
from apppot.image import store
from tests.contract import rawdisks
from tests.contract.conftest import IMAGE, environment
from tests.contract.harness import AppPot, Engine

if TYPE_CHECKING:
    from collections.abc import Iterator

# Its list also has pycrypto, which no Python of today can build: pycryptodome is what took its
# place. Only older versions of SQLAlchemy have what it uses.
GC3PIE = "gc3pie==2.6.8"
NEEDS = (
    *("blinker", "coloredlogs", "dictproxyhack", "future", "lockfile", "paramiko"),
    *("parsedatetime", "prettytable", "pyCLI", "pycryptodome", "python-daemon", "pyyaml", "six"),
    "sqlalchemy<1.4",
)
COMPILER = os.environ.get("APPPOT_TEST_COMPILER", "gcc:test")
PROGRAM = '#include <stdio.h>\nint main(void) { puts("compiled in the guest"); return 0; }\n'


@pytest.fixture(scope="session")
def gc3pie() -> str:
    """Return a Python that has GC3Pie."""
    folder = Path(paths.cache_dir()) / "tests" / "gc3pie"
    python = folder / "bin" / "python"
    probe = [str(python), "-c", "import gc3libs.application.apppot"]
    if python.exists() and subprocess.run(probe, check=False, capture_output=True).returncode == 0:
        return str(python)
    venv.create(folder, with_pip=True, clear=True)
    for words in (["--no-deps", GC3PIE], list(NEEDS)):
        pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check", *words]
        done = subprocess.run(pip, check=False, capture_output=True, text=True, timeout=280)
        if done.returncode:
            pytest.skip(f"GC3Pie cannot be installed: {done.stderr.strip().splitlines()[-1:]}")
    return str(python)


@pytest.fixture(scope="module")
def site() -> Iterator[AppPot]:
    with tempfile.TemporaryDirectory(prefix="apppot-gc3pie-") as folder:
        made = AppPot(Engine("uml"), IMAGE, folder, environment())
        os.mkdir(made.job)
        yield made


@pytest.fixture(scope="module")
def disk(site: AppPot) -> str:
    root = rawdisks.make_root(site, os.path.join(site.folder, "root"))
    return rawdisks.mke2fs(root, os.path.join(site.folder, "base.img"))


def submit(
    gc3pie: str, folder: Path, arguments: list[str], files: dict[str, str], **more: Any
) -> dict[str, Any]:
    """Run one job of AppPotApplication's and return how it ended, and its files."""
    script = f'#!/bin/sh\nexec {sys.executable} -m apppot.legacy.start "$@"\n'
    image, inputs = more.pop("image", ""), []
    for name, text in {"apppot-start.sh": script, **files}.items():
        path = folder / "input" / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
        inputs.append((str(path), name))
    more = {"outputs": [], "stdout": "job.log", **more}
    job = folder / "job.json"
    job.write_text(json.dumps({"arguments": arguments, "inputs": inputs, **more}))
    driver = Path(__file__).with_name("gc3pie_job.py")
    # The driver has a home of its own.
    places = {"APPPOT_KIT": kit.locate(), "APPPOT_STORE": ":".join(paths.store_dirs())}
    done = subprocess.run(
        [gc3pie, str(driver), str(folder), str(job)],
        check=False,
        capture_output=True,
        text=True,
        env={**environment(), **places, **({"APPPOT_IMAGE": image} if image else {})},
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert found["state"] == "TERMINATED"
    found["files"] = {p.name: p.read_bytes() for p in (folder / "output").iterdir()}
    return found


def test_job_on_a_staged_image(gc3pie: str, disk: str, tmp_path: Path) -> None:
    script = "pwd; echo to stderr >&2; cat /proc/cmdline; cp in.txt out.txt; exit 6"
    done = submit(
        gc3pie,
        tmp_path,
        ["sh", "-c", script],
        {"in.txt": "staged\n"},
        outputs=["out.txt"],
        apppot_img=disk,
        apppot_extra=["VMMAD_AUTH='token'"],
        requested_memory=200,
    )
    assert done["arguments"][:7] == [
        *("./apppot-start.sh", "--apppot", "apppot.img", "--mem", "200M"),
        *("--extra", "VMMAD_AUTH='token'"),
    ]
    assert done["exitcode"] == 6
    assert done["files"]["out.txt"] == b"staged\n"
    log = done["files"]["job.log"].decode()
    assert log.startswith("/home/user/job\n")
    assert "to stderr\n" in log
    assert "VMMAD_AUTH='token'" in log


def test_job_with_changes(gc3pie: str, disk: str, tmp_path: Path) -> None:
    (tmp_path / "opt").mkdir()
    (tmp_path / "opt" / "tool").write_text("#!/bin/sh\necho tool of the changes\n")
    (tmp_path / "opt" / "tool").chmod(0o755)
    archive = tmp_path / "my.changes.tar.gz"
    words = ["tar", "-czf", str(archive), "-C", str(tmp_path), "opt"]
    subprocess.run(words, check=True)
    done = submit(
        gc3pie,
        tmp_path,
        ["/opt/tool"],
        {},
        apppot_img=disk,
        apppot_changes=str(archive),
    )
    assert done["arguments"] == [
        *("./apppot-start.sh", "--apppot", "apppot.img"),
        *("--changes", "apppot.changes.tar.gz", "/opt/tool"),
    ]
    assert (done["exitcode"], done["files"]["job.log"]) == (0, b"tool of the changes\n")


def test_script_staged_in_the_job_folder(gc3pie: str, disk: str, tmp_path: Path) -> None:
    """As the economics jobs did: the program is staged, and called by its path in the guest."""
    done = submit(
        gc3pie,
        tmp_path,
        ["/home/user/job/model", "par.in"],
        {"model": '#!/bin/sh\necho "$(cat "$1")" done >result\n', "par.in": "42"},
        outputs=["result"],
        apppot_img=disk,
    )
    assert (done["exitcode"], done["files"]["result"]) == (0, b"42 done\n")


def test_apppot_run_is_staged(gc3pie: str, disk: str, tmp_path: Path) -> None:
    done = submit(
        gc3pie, tmp_path, [], {"apppot-run": "#!/bin/sh\necho ran; exit 2\n"}, apppot_img=disk
    )
    assert (done["exitcode"], done["files"]["job.log"]) == (2, b"ran\n")


def test_compile_in_the_guest_and_run_natively(gc3pie: str, tmp_path: Path) -> None:
    """As the ABC jobs did: the appliance is where a program is built that then runs without it."""
    try:
        store.resolve(COMPILER)
    except Exception as error:  # noqa: BLE001  any reason that there is no such image
        pytest.skip(f"needs an image with gcc; APPPOT_TEST_COMPILER names one: {error}")
    run = "#!/bin/sh\ngcc -static -O2 -o abc.x abc.c && ./abc.x\n"
    done = submit(
        gc3pie,
        tmp_path,
        [],
        {"apppot-run": run, "abc.c": PROGRAM},
        outputs=["abc.x"],
        image=COMPILER,
    )
    assert (done["exitcode"], done["files"]["job.log"]) == (0, b"compiled in the guest\n")
    program = tmp_path / "output" / "abc.x"
    program.chmod(0o755)
    native = subprocess.run([str(program)], check=True, capture_output=True)
    assert native.stdout == b"compiled in the guest\n"
