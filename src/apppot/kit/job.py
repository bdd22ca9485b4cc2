"""One component's build: its folders, its log, and the commands that it runs."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from apppot import process
from apppot.errors import KitError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from apppot.kit.progress import Progress

# Any fixed time will do; it is what compilers and archives are told that "now" is.
EPOCH = 1767225600  # 2026-01-01 00:00:00 UTC
TAIL_LINES = 12


@dataclass(frozen=True)
class Job:
    """What a recipe is given. Everything below `work` is thrown away after the build."""

    name: str
    version: str
    work: str  # an empty folder, other in every build: results must not depend on it
    out: str  # the component's part of the kit: bin/, boot/, licenses/
    recipe: str  # kit/<component> of the recipes
    guest: str  # the guest's and helpers' own sources
    source: str  # the archive or .deb with the component's source; '' for our own
    patches: tuple[str, ...]
    jobs: int
    log: str
    progress: Progress

    @property
    def reproducible(self) -> tuple[str, ...]:
        """Compiler and linker options that keep the build's folder out of the result."""
        return (f"-ffile-prefix-map={self.work}=.", "-Wl,--build-id=none")

    def run(
        self,
        what: str,
        argv: Sequence[str],
        *,
        cwd: str = "",
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Run one command; raises KitError that names the step, its last lines and its log."""
        environment = {
            "PATH": os.environ.get("PATH", process.CLEAN_PATH),
            "HOME": self.work,
            "TMPDIR": self.work,
            "LC_ALL": "C",
            "TZ": "UTC",
            "SOURCE_DATE_EPOCH": str(EPOCH),
            **(env or {}),
        }
        with open(self.log, "ab") as log:
            log.write(f"\n$ {process.command_line(argv)}\n".encode())
            log.flush()
            begin = log.tell()
            done = process.run(argv, cwd=cwd or self.work, env=environment, log=log, check=False)
        if done.returncode:
            raise KitError(
                f"{self.name}: {what} failed with status {done.returncode}"
                f"\n{tail(self.log, begin)}\n  log: {self.log}"
            )

    def step(
        self, what: str, argv: Sequence[str], *, cwd: str = "", env: Mapping[str, str] | None = None
    ) -> None:
        """Run one command as a step that the user sees."""
        with self.progress.step(f"{self.name}: {what}"):
            self.run(what, argv, cwd=cwd, env=env)

    def unpack(self, *options: str) -> str:
        """Unpack the source archive, apply the patches, and return the folder."""
        tree = os.path.join(self.work, "source")
        os.mkdir(tree)
        self.step(
            "unpack",
            [
                "tar",
                "-xf",
                self.source,
                "-C",
                tree,
                "--strip-components=1",
                "--no-same-owner",
                *options,
            ],
        )
        self.patch(tree)
        return tree

    def patch(self, tree: str) -> None:
        """Apply the recipe's patches in the order of their names."""
        for patch in self.patches:
            self.run(
                f"patch {os.path.basename(patch)}",
                ["patch", "-p1", "--batch", "--forward", "--no-backup-if-mismatch", "-i", patch],
                cwd=tree,
            )

    def install(self, path: str, name: str) -> None:
        """Put a program into the kit, without symbols."""
        target = self._target(name)
        self.run("strip", ["strip", "--strip-all", "-R", ".comment", "-o", target, path])
        os.chmod(target, 0o755)  # noqa: S103  a program for everybody

    def write(self, name: str, data: bytes) -> None:
        """Put a file with this content into the kit."""
        target = self._target(name)
        with open(target, "wb") as stream:
            stream.write(data)
        os.chmod(target, 0o644)

    def licences(self, tree: str, *names: str) -> None:
        """Put licence texts from the source into the kit, as far as this version has them."""
        for name in names:
            path = os.path.join(tree, name)
            if os.path.isfile(path):
                target = self._target(f"licenses/{self.name}/{name.replace('/', '_')}")
                shutil.copyfile(path, target)
                os.chmod(target, 0o644)

    def _target(self, name: str) -> str:
        target = os.path.join(self.out, name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        return target


def tail(path: str, begin: int = 0) -> str:
    """Return the last lines of a log, from the offset `begin` on."""
    with open(path, "rb") as stream:
        stream.seek(begin)
        text = stream.read().decode("utf-8", "replace")
    return "\n".join(f"  | {line}" for line in text.rstrip().splitlines()[-TAIL_LINES:])
