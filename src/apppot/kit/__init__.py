"""Find the kit: the relocatable folder of static binaries that boots appliances."""

from __future__ import annotations

import os
from functools import cached_property

from apppot import paths
from apppot.errors import KitError
from apppot.lean import TYPE_CHECKING, dataclass

if TYPE_CHECKING:
    from apppot.kit.manifest import Manifest

MANIFEST = "kit.json"
SCHEMA = 1
ARCHITECTURE = "x86_64"

LINUX = "bin/linux"
PASST = "bin/passt"
MKFS_EROFS = "bin/mkfs.erofs"
MKE2FS = "bin/mke2fs"
CONFINE = "bin/confine"
AGENT = "boot/agent.cpio"
PC_KERNEL = "boot/bzImage"
KEEPER = "boot/keeper.cpio"
BIOS_LOADER = "boot/bios.bin"
EFI_LOADER = "boot/efi.bin"


@dataclass(frozen=True)
class Kit:
    """A kit that has been checked; `path` is its folder."""

    path: str

    @cached_property
    def manifest(self) -> Manifest:
        """The parsed kit.json; read only when somebody asks."""
        from apppot.kit import manifest  # JSON is not needed on the run path

        return manifest.load(self.path)

    def file(self, name: str) -> str:
        """Return the path of one of the kit's files; raises KitError if it is not there."""
        path = f"{self.path}/{name}"
        if not os.path.isfile(path):
            raise KitError(
                f"the kit in {self.path} has no {name}",
                hint="make a whole one with 'apppot kit build'",
            )
        return path


def locate() -> str:
    """Return the folder of the first kit in `paths.kit_dirs()`, unchecked; raises KitError."""
    folders = paths.kit_dirs()
    for folder in folders:
        if os.path.lexists(os.path.join(folder, MANIFEST)):
            return os.path.realpath(folder)
    if os.environ.get("APPPOT_KIT"):
        raise KitError(
            f"APPPOT_KIT names {folders[0]}, which is not a kit: there is no {MANIFEST} in it",
            hint="correct APPPOT_KIT, or unset it",
        )
    raise KitError(
        "there is no kit: looked in " + ", ".join(folders),
        hint="make one with 'apppot kit build' (a few minutes, no root needed), "
        "or set APPPOT_KIT to one that is there",
    )


def find() -> Kit:
    """Return the kit to use, known to be whole.

    All its digests have been checked since a file in it was last touched: the proof is a stamp in
    the user's cache, that holds what stat() said then. Without the stamp everything is hashed.
    Raises KitError if there is no kit, or if it is damaged or foreign.
    """
    path = locate()
    machine = os.uname().machine
    if machine != ARCHITECTURE:
        raise KitError(
            f"this computer is {machine}: kits are made for {ARCHITECTURE} only",
            hint="use a computer with an x86_64 processor",
        )
    if not _stamp_holds(path):
        from apppot.kit import verify  # hashing: once after a change

        manifest = verify.check(path)
        _write_stamp(path, (MANIFEST, *manifest.files))
    return Kit(path)


def stat_lines(path: str, names: tuple[str, ...]) -> str:
    """Return what stat() says of the files in `path`, as text that is compared as a whole."""
    lines = []
    for name in names:
        found = os.stat(f"{path}/{name}")
        what = (found.st_mode, found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino)
        lines.append(f"{name}\t{what}\n")
    return "".join(lines)


def _stamp_path(path: str) -> str:
    found = os.stat(path)
    return os.path.join(paths.cache_dir(), "verified", f"kit-{found.st_dev:x}-{found.st_ino:x}")


def _stamp_head(path: str) -> str:
    return f"apppot kit stamp, schema {SCHEMA}: {path!r}\n"


def _stamp_holds(path: str) -> bool:
    """Tell whether the kit in `path` is as it was when it was last verified."""
    try:
        with open(_stamp_path(path), encoding="utf-8", errors="surrogateescape") as stream:
            head = stream.readline()
            body = stream.read()
        names = tuple(line.split("\t", 1)[0] for line in body.splitlines())
        return bool(names) and head == _stamp_head(path) and body == stat_lines(path, names)
    except (OSError, ValueError):
        return False


def _write_stamp(path: str, names: tuple[str, ...]) -> None:
    """Remember that the kit in `path` is whole; a cache that cannot be written costs time only."""
    try:
        target = _stamp_path(path)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        aside = f"{target}.{os.getpid()}"
        with open(aside, "w", encoding="utf-8", errors="surrogateescape") as stream:
            stream.write(_stamp_head(path) + stat_lines(path, names))
        os.replace(aside, target)
    except OSError:
        return
