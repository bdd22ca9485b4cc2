"""Whole commands on one store, to be killed, and what must be true of each of them."""

from __future__ import annotations

import hashlib
import io
import os
import random
import re
import shutil
import subprocess
import sys
import tarfile
import time
from dataclasses import dataclass, field

from apppot.image import changefile, writer
from apppot.image.store import Store, resolve
from tests.integration import registries

BASE, MINE = "base:1", "mine:1"
OFFLINE = ("--network", "none")
CONTAINERFILE = f"""FROM {BASE}
ARG MARK
RUN echo "$MARK" >/mark
COPY data /data
"""
SIZE = 1 << 20
HEXADECIMAL = re.compile("[0-9a-f]{64}")


@dataclass
class Job:
    """A command, and what it makes: an image, a file, a registry's tag; or nothing (gc)."""

    kind: str
    number: int
    words: tuple[str, ...]
    image: str = ""
    file: str = ""
    tag: str = ""
    process: subprocess.Popen[bytes] | None = None
    began: float = 0.0

    def __str__(self) -> str:
        return f"{self.kind} {self.number}"


@dataclass
class Yard:
    """Folders, the commands that work in them, and the images that are finished."""

    folder: str
    registry: str
    store_path: str
    finished: dict[str, tuple[str, str]] = field(default_factory=dict)  # digest, what /mark says
    numbers: int = 0

    def __post_init__(self) -> None:
        for name in ("tmp", "run", "out", "context", "work"):
            os.mkdir(self.at(name), 0o700)
        with open(self.at("context", "Containerfile"), "w", encoding="ascii") as file:
            file.write(CONTAINERFILE)
        with open(self.at("context", "data"), "wb") as data:
            data.write(random.Random(1).randbytes(SIZE))
        self.env = {
            **os.environ,
            "APPPOT_STORE": self.store_path,
            "APPPOT_TMPDIR": self.at("tmp"),
            "TMPDIR": self.at("tmp"),
            "APPPOT_RUNTIME_DIR": self.at("run"),
        }

    def at(self, *names: str) -> str:
        return os.path.join(self.folder, *names)

    @property
    def store(self) -> Store:
        return Store(self.store_path)

    # --- commands --------------------------------------------------------------------------------

    def start(self, job: Job) -> None:
        """Start a command as the leader of a session."""
        job.began = time.monotonic()
        with open(self.at(f"{job.kind}-{job.number}.log"), "wb") as log:
            job.process = subprocess.Popen(
                [sys.executable, "-m", "apppot", *job.words], env=self.env, cwd=self.at("work"),
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip

    def said(self, job: Job) -> str:
        with open(self.at(f"{job.kind}-{job.number}.log"), errors="replace", encoding="utf-8") as f:
            return f.read()

    def wait(self, job: Job) -> None:
        """Wait for a command, which must succeed; gc may find others at work."""
        assert job.process
        status, said = job.process.wait(120), self.said(job)
        assert status == 0 or (job.kind == "gc" and "try again" in said), f"{job}: {said}"
        os.unlink(self.at(f"{job.kind}-{job.number}.log"))

    def call(self, *words: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "apppot", *words], env=self.env, cwd=self.at("work"),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    def job(self, kind: str) -> Job:
        """Return a command that makes something new."""
        self.numbers += 1
        number, mark = self.numbers, str(self.numbers)
        image, remote = f"{kind}:{number}", f"{kind}/{number}"
        file, place = self.at("out", f"{kind}-{number}"), f"{self.registry}/{remote}:1"
        if kind == "pull":
            registries.publish(self.registry, remote, [root_archive(), mark_archive(mark)])
        fill = f"echo {mark} >/mark; head -c {SIZE} /dev/urandom >/data"
        save = ("run", *OFFLINE, "--root", "--save")
        words: dict[str, tuple[str, ...]] = {
            "pull": ("pull", "--plain-http", "--name", image, place),
            "build": ("build", *OFFLINE, "-t", image, "--build-arg", f"MARK={mark}", "../context"),
            "run": (*save, image, BASE, "--", "sh", "-c", fill),
            "push": ("push", "--plain-http", MINE, place),
            "oci": ("save", "-o", file, "--format", kind, MINE),
            "docker": ("save", "-o", file, "--format", kind, MINE),
            "changes": ("changes", "save", "--level", "3", file, MINE),
            "gc": ("gc", "--days", "0"),
        }
        return Job(
            kind, number, words[kind],
            image=image if kind in ("pull", "build", "run") else "",
            file=file if kind in ("oci", "docker", "changes") else "",
            tag=remote if kind == "push" else "",
        )  # fmt: skip

    def fill(self) -> None:
        """Make the images that commands begin from."""
        registries.publish(self.registry, "base", [root_archive()])
        self.call("pull", "--plain-http", "--name", BASE, f"{self.registry}/base:1")
        script = f"echo mine >/mark; head -c {SIZE} /dev/urandom >/big"
        self.call("run", *OFFLINE, "--root", "--save", MINE, BASE, "--", "sh", "-c", script)
        self.finished[MINE] = self.digests()[MINE], "mine"
        self.finished[BASE] = self.digests()[BASE], ""

    # --- what must be true -----------------------------------------------------------------------

    def digests(self) -> dict[str, str]:
        return {e.reference: e.manifest.digest for e in self.store.entries() if e.reference}

    def made(self, job: Job) -> bool:
        """Tell whether what a command makes is there; then all of it must be, and be right."""
        if job.image:
            digest = self.digests().get(job.image)
            if digest:
                self.finished[job.image] = digest, str(job.number)
            return digest is not None
        if job.tag:
            return registries.whole(self.registry, job.tag)
        if job.file:
            return os.path.exists(job.file) and check_file(job)
        return False

    def check_store(self) -> None:
        """Check that the store is sound, and that all finished images are in it."""
        self.call("fsck")  # its status tells
        digests = self.digests()
        for name, (digest, _) in self.finished.items():
            assert digests.get(name) == digest, f"{name} is lost"
            assert resolve(name).digest == digest  # with all layers

    def check_runs(self, names: set[str]) -> None:
        """Check that finished images run."""
        jobs = []
        for name in sorted(names - {BASE}):
            self.numbers += 1
            words = ("run", *OFFLINE, "--no-job-dir", name, "--", "cat", "/mark")
            jobs.append(Job("look", self.numbers, words, image=name))
            self.start(jobs[-1])
        for job in jobs:
            assert job.process
            status, said = job.process.wait(120), self.said(job)
            assert (status, said) == (0, self.finished[job.image][1] + "\n"), job.image
            os.unlink(self.at(f"{job.kind}-{job.number}.log"))

    def left(self) -> list[str]:
        """Return what was left behind, apart from what commands have made."""
        found = [self.at(name, each) for name in ("tmp", "run", "work") for each in self.ls(name)]
        found += [self.at("out", name) for name in self.ls("out") if name.startswith(".")]
        blobs = os.path.dirname(self.store.blob_path("sha256:" + "0" * 64))
        for folder in (self.store_path, blobs):
            names = sorted(os.listdir(folder))
            found += [os.path.join(folder, n) for n in names if n.startswith(writer.TEMPORARY)]
        found += [n for n in os.listdir(blobs) if not HEXADECIMAL.fullmatch(n)]
        partial = os.path.join(self.store_path, "partial")
        return found + (sorted(os.listdir(partial)) if os.path.isdir(partial) else [])

    def ls(self, name: str) -> list[str]:
        return sorted(os.listdir(self.at(name)))


def check_file(job: Job) -> bool:
    """Check a file that has its name: all of it must be there. Return True."""
    if job.kind == "changes":
        layer = changefile.read(job.file).layer
        with open(job.file, "rb") as whole:
            data = whole.read(layer.size)
        assert f"sha256:{hashlib.sha256(data).hexdigest()}" == layer.digest
        return True
    with tarfile.open(job.file) as tar:
        names = tar.getnames()
        assert {"oci": "index.json", "docker": "manifest.json"}[job.kind] in names
        for name in names:
            digest = os.path.basename(name).partition(".")[0]
            if HEXADECIMAL.fullmatch(digest):
                content = tar.extractfile(name)
                assert content
                assert hashlib.sha256(content.read()).hexdigest() == digest
    return True


def root_archive() -> bytes:
    """Return a root file system with a shell, always the same."""
    with open(shutil.which("busybox") or "", "rb") as file:
        busybox = file.read()
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in ("bin", "tmp", "proc", "dev", "etc"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(folder)
        program = tarfile.TarInfo("bin/busybox")
        program.size, program.mode = len(busybox), 0o755
        tar.addfile(program, io.BytesIO(busybox))
        for name in ("sh", "cat", "head", "echo"):
            link = tarfile.TarInfo(f"bin/{name}")
            link.type, link.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(link)
    return out.getvalue()


def mark_archive(mark: str) -> bytes:
    """Return a layer with /mark, and as much as takes a moment to arrive."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, data in (("mark", f"{mark}\n".encode()), ("data", os.urandom(8 * SIZE))):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()
