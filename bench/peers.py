"""AppPot and its peers: how each runs a command on the same root file system."""

from __future__ import annotations

import os
import pwd
import resource
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bench.launch import environment, launch
from bench.series import CaseError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import ExitStack

APPPOT = "apppot"
APPPOT_OFFLINE = "apppot --network none"
NATIVE = "native"
PODMAN = "podman"
_IMAGE = "localhost/apppot-bench:1"


@dataclass(frozen=True)
class Peer:
    """A way to run a command; `prefix` goes before it, `job` is where it sees the shared folder."""

    name: str
    prefix: tuple[str, ...]
    job: str = "/job"
    extra: dict[str, str] = field(default_factory=dict)

    def argv(self, *command: str) -> list[str]:
        """Return the command line; `@/` in a word stands for the shared folder."""
        return [*self.prefix, *(word.replace("@/", f"{self.job}/") for word in command)]


@dataclass
class Peers:
    """Those that can be tried, and why the others cannot."""

    found: list[Peer] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    def named(self, name: str) -> Peer:
        """Return one peer; raises CaseError."""
        for peer in self.found:
            if peer.name == name:
                return peer
        raise CaseError(self.missing.get(name, "not tried"))


def export(apppot: str, image: str, folder: str) -> None:
    """Unpack an image's file system into `folder`, and make the peers' mount point in it."""
    # fmt: off
    pour = subprocess.Popen(
        [apppot, "run", "--root", "--network", "none", "--no-job-dir", image, "--",
         "tar", "-C", "/", "--one-file-system", "-cf", "-", "."],
        stdout=subprocess.PIPE, env=environment({}),
    )
    # fmt: on
    words = ["tar", "-C", folder, "-xpf", "-", "--exclude=./dev/*"]
    unpacked = subprocess.run(words, stdin=pour.stdout, check=False)
    if pour.wait() or unpacked.returncode:
        sys.exit(
            f"bench: the image {image} could not be exported:"
            f" status {pour.returncode} of apppot, {unpacked.returncode} of tar"
        )
    for name in ("job", "proc", "dev", "sys", "tmp"):
        os.makedirs(os.path.join(folder, name), exist_ok=True)


def apppots(apppot: str, image: str) -> list[Peer]:
    """Return AppPot's two cases; the shared folder is the current one, as by default."""
    return [
        Peer(APPPOT, (apppot, "run", image, "--")),
        Peer(APPPOT_OFFLINE, (apppot, "run", "--network", "none", image, "--")),
    ]


def collect(
    apppot: str, image: str, root: str, share: str, work: str, rootless: str, stack: ExitStack
) -> Peers:
    """Return everything that runs here on the file system in `root`."""
    peers = Peers(found=[*apppots(apppot, image), Peer(NATIVE, (), job=share)])
    for candidate in (*_simple(root, share), *_podmen(root, share, work, rootless, stack)):
        if isinstance(candidate, Peer):
            try:
                launch(candidate.argv("/bin/true"), extra=candidate.extra)
            except CaseError as error:
                peers.missing[candidate.name] = str(error)
            else:
                peers.found.append(candidate)
        else:
            name, reason = candidate
            peers.missing[name] = reason
    return peers


def _simple(root: str, share: str) -> Iterator[Peer]:
    bind = f"{share}:/job"
    yield Peer("Apptainer", ("apptainer", "--silent", "exec", "--bind", bind, root))
    yield Peer("Charliecloud", ("ch-run", "--bind", bind, root, "--"), extra={"USER": _user()})
    # fmt: off
    yield Peer("bwrap", (
        "bwrap", "--ro-bind", root, "/", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp",
        "--bind", share, "/job", "--unshare-all", "--die-with-parent",
    ))
    # fmt: on
    yield Peer("PRoot", ("proot", "-r", root, "-b", "/proc", "-b", "/dev", "-b", bind))


def _podmen(
    root: str, share: str, work: str, rootless: str, stack: ExitStack
) -> Iterator[Peer | tuple[str, str]]:
    if not shutil.which("podman"):
        yield PODMAN, "not installed"
        return
    if os.geteuid() != 0:
        yield from _podman(PODMAN, (), root, share, os.path.join(work, "podman"), stack)
        return
    yield from _podman(PODMAN, (), root, share, os.path.join(work, "podman"), stack)
    name = "podman (rootless)"
    if not rootless:
        yield name, "the benchmark ran as root and without --rootless-user"
        return
    try:
        account = pwd.getpwnam(rootless)
    except KeyError:
        yield name, f"there is no user {rootless}"
        return
    storage = os.path.join(work, "podman-rootless")
    os.mkdir(storage)
    os.chown(storage, account.pw_uid, account.pw_gid)
    # fmt: off
    become = (
        "setpriv", f"--reuid={account.pw_uid}", f"--regid={account.pw_gid}", "--init-groups",
        "env", f"HOME={storage}", f"XDG_RUNTIME_DIR={storage}", f"USER={rootless}",
    )
    # fmt: on
    yield from _podman(name, become, root, share, storage, stack)


def _podman(
    name: str, become: tuple[str, ...], root: str, share: str, folder: str, stack: ExitStack
) -> Iterator[Peer | tuple[str, str]]:
    """Import the file system as an image into a storage of its own, as a user would have it."""
    # fmt: off
    base = (
        *become, "podman", "--root", f"{folder}/root", "--runroot", f"{folder}/run",
        "--cgroup-manager", "cgroupfs", "--events-backend", "file", "--runtime", "runc",
    )
    # fmt: on
    os.makedirs(folder, exist_ok=True)
    tar = subprocess.Popen(["tar", "-C", root, "-cf", "-", "."], stdout=subprocess.PIPE)
    try:
        done = subprocess.run(
            [*base, "import", "-", _IMAGE], stdin=tar.stdout, capture_output=True, check=False
        )
    finally:
        tar.wait()
    if become or os.geteuid() != 0:
        undo = [*become, "podman", "unshare", "rm", "-rf", f"{folder}/root", f"{folder}/run"]
    else:
        undo = ["umount", f"{folder}/root/overlay"]  # podman leaves it mounted
    stack.callback(subprocess.run, undo, capture_output=True, check=False)
    if done.returncode:
        yield (
            name,
            "the image could not be imported: " + done.stderr.decode(errors="replace")[-120:],
        )
        return
    # fmt: off
    yield Peer(name, (
        *base, "run", "--rm", "--network", "none", *_limits(), "-i", "-v", f"{share}:/job", _IMAGE,
    ))
    # fmt: on


def _limits() -> Iterator[str]:
    """Yield options for small limits: podman's own are refused where nobody may raise limits."""
    for name, number in (("nofile", resource.RLIMIT_NOFILE), ("nproc", resource.RLIMIT_NPROC)):
        hard = resource.getrlimit(number)[1]
        limit = 4096 if hard == resource.RLIM_INFINITY else min(4096, hard // 2)
        yield f"--ulimit={name}={limit}:{limit}"


def _user() -> str:
    return os.environ.get("USER") or pwd.getpwuid(os.getuid()).pw_name
