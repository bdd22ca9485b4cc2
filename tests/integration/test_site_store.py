"""A site's store on a read-only mount: an ordinary user runs its base, and saves onto it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from typing import TYPE_CHECKING

import pytest

from apppot import kit
from apppot.errors import AppPotError
from apppot.image.store import find

if TYPE_CHECKING:
    from collections.abc import Iterator

IMAGE = os.environ.get("APPPOT_TEST_IMAGE", "debian:bookworm")
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
UID = 4242
# As root the store is mounted read-only for the command alone; any user else lacks the permission.
MOUNT = 'mount --bind "$0" "$0" && mount -o remount,bind,ro "$0" && exec "$@"'


class Site:
    """A site's store and configuration, and a user with a home."""

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.store = os.path.join(folder, "site", "store")
        self.home = os.path.join(folder, "home")

    def fill(self) -> None:
        """Copy the base, without its name's other tags, and the kit if others cannot read it."""
        store, entry = find(IMAGE)
        blobs = os.path.join(self.store, "blobs", "sha256")
        os.makedirs(blobs)
        manifest = store.manifest(entry)
        for value in (entry.manifest.json(), manifest["config"], *manifest["layers"]):
            source = store.blob_path(value["digest"])
            target = os.path.join(blobs, os.path.basename(source))
            try:
                os.link(source, target)
            except OSError:
                shutil.copy(source, target)
        plain = {k: v for k, v in entry.manifest.json().items() if k != "annotations"}
        line = {**plain, "annotations": {"org.opencontainers.image.ref.name": "site/base:1"}}
        with open(os.path.join(self.store, "index.json"), "w", encoding="utf-8") as file:
            json.dump({"schemaVersion": 2, "manifests": [line]}, file)
        with open(os.path.join(self.store, "oci-layout"), "w", encoding="utf-8") as file:
            file.write('{"imageLayoutVersion": "1.0.0"}')
        kit_path = os.path.join(self.folder, "site", "kit")
        shutil.copytree(kit.find().path, kit_path)
        with open(os.path.join(self.folder, "site", "config.toml"), "w", encoding="utf-8") as file:
            file.write(f"stores = [{json.dumps(self.store)}]\nkit = {json.dumps(kit_path)}\n")
        shutil.copytree(os.path.join(ROOT, "src"), os.path.join(self.folder, "site", "src"))
        subprocess.run(["chmod", "-R", "go+rX", os.path.join(self.folder, "site")], check=True)
        subprocess.run(["chmod", "-R", "a-w", self.store], check=True)
        os.makedirs(os.path.join(self.home, "job"))
        if os.getuid() == 0:
            for path in (self.home, os.path.join(self.home, "job")):
                os.chown(path, UID, UID)

    def tree(self) -> list[tuple[str, int, int]]:
        """Return all that is in the site's store, with sizes and times."""
        return sorted(
            (os.path.join(where, name), found.st_size, found.st_mtime_ns)
            for where, folders, names in os.walk(self.store)
            for name in (*folders, *names)
            for found in [os.stat(os.path.join(where, name))]
        )

    def apppot(self, *words: str, status: int = 0) -> str:
        """Run a command line as the user and return what it says; check its status."""
        env = {
            "PATH": os.environ["PATH"],
            "HOME": self.home,
            "PYTHONPATH": os.path.join(self.folder, "site", "src"),
            "APPPOT_CONFIG": os.path.join(self.folder, "site", "config.toml"),
            "TMPDIR": self.home,
        }
        argv = [_python(), "-m", "apppot", *words]
        if os.getuid() == 0:
            user = ["setpriv", f"--reuid={UID}", f"--regid={UID}", "--clear-groups"]
            argv = ["unshare", "--mount", "sh", "-c", MOUNT, self.store, *user, *argv]
        done = subprocess.run(
            argv, env=env, cwd=os.path.join(self.home, "job"), capture_output=True, text=True,
            check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == status, done.stdout + done.stderr
        return done.stdout if status == 0 else done.stderr


def _python() -> str:
    """Return an interpreter that other users may run, too: not one in root's home."""
    return os.path.realpath(sys.executable)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    try:
        kit.find()
        find(IMAGE)
    except AppPotError as error:
        pytest.skip(f"this needs a kit and {IMAGE}: {error.message}")
    folder = tempfile.mkdtemp(prefix="apppot-site-")
    os.chmod(folder, 0o755)
    made = Site(folder)
    try:
        made.fill()
        yield made
    finally:
        subprocess.run(["chmod", "-R", "u+w", made.store], check=False)
        shutil.rmtree(folder)


def test_an_ordinary_user_works_on_the_sites_base(site: Site) -> None:
    before = site.tree()
    assert site.apppot("config", "stores").strip() == site.store
    assert site.apppot("images", "-q").split() == ["site/base:1"]
    digest = json.loads(site.apppot("inspect", "site/base:1"))["digest"]
    say = ["--network", "none"]
    assert site.apppot("run", *say, digest, "--", "echo", "hello") == "hello\n"

    write = ["sh", "-c", "echo mine >/etc/mine"]
    site.apppot("run", *say, "--root", "--save", "mine:1", digest, "--", *write)
    assert site.apppot("run", *say, "mine:1", "--", "cat", "/etc/mine") == "mine\n"
    site.apppot("save", "-o", "base.tar", "site/base:1")
    site.apppot("load", "-i", "base.tar", "--name", "loaded:1")
    site.apppot("rm", "loaded:1")
    site.apppot("tag", "site/base:1", "base:copy")
    assert site.apppot("run", *say, "base:copy", "--", "echo", "hello") == "hello\n"

    own = os.path.join(site.home, ".local", "share", "apppot", "store")
    (total,) = [t for t in json.loads(site.apppot("du", "--json")) if t["store"] == own]
    assert total["size"] < 200_000  # the base's layers are not copied
    assert {image["reference"] for image in total["images"]} == {"mine:1", "base:copy"}
    site.apppot("fsck", "--all-stores")
    site.apppot("rm", "base:copy")
    site.apppot("gc")
    assert site.apppot("run", *say, "mine:1", "--", "cat", "/etc/mine") == "mine\n"

    assert "only read from" in site.apppot("rm", "site/base:1", status=1)
    assert site.tree() == before


def test_a_base_that_went_away_is_named(site: Site) -> None:
    say = ["--network", "none"]
    site.apppot("run", *say, "--root", "--save", "lost:1", "site/base:1", "--", "touch", "/etc/x")
    hidden = site.store + "-hidden"
    os.rename(site.store, hidden)
    os.mkdir(site.store)
    try:
        told = site.apppot("run", *say, "lost:1", "--", "true", status=125)
    finally:
        os.rmdir(site.store)
        os.rename(hidden, site.store)
    assert "'lost:1'" in told
    assert "site/base:1" in told
    assert "sha256:" in told
