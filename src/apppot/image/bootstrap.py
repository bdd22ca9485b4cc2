"""Make an image from a distribution's packages, as an ordinary user, with mmdebstrap."""

from __future__ import annotations

import os
import platform
import re
import tarfile
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

from apppot import paths, process
from apppot.errors import ImageError, UsageError
from apppot.image import debsources, erofs, inside, mmdebstrap, reference, writer
from apppot.image.erofs import Compression
from apppot.image.mmdebstrap import Mode
from apppot.image.model import DEFAULT_PATH
from apppot.image.store import Store, stores
from apppot.image.workplace import workplace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from apppot.image.debsources import Release

DISTRIBUTIONS = ("debian", "ubuntu")
# What people expect of a system that they log in to, and minbase lacks; `bare` leaves it out.
USUAL = ("ca-certificates", "iproute2", "netbase", "procps", "sudo")
NAMESPACE = "vnd.apppot."
# The agent writes these at each start; mmdebstrap leaves the ones of the computer that it ran on.
HOST_FILES = frozenset({"etc/hostname", "etc/resolv.conf"})
_PACKAGE = re.compile(
    r"[a-z0-9][a-z0-9+.-]*(?::[a-z0-9-]+)?(?:=[A-Za-z0-9.+:~-]+|/[a-z0-9.+-]+)?-?"
)


@dataclass(frozen=True)
class Request:
    """What is to be made: `source` is DISTRIBUTION:SUITE."""

    source: str
    name: str = ""
    include: tuple[str, ...] = ()
    variant: str = "minbase"
    bare: bool = False
    components: tuple[str, ...] = ()
    mirror: str = ""
    keyring: str = ""
    mode: str = ""
    compression: Compression = Compression.NONE
    allow_expired: bool = False
    replace: bool = False


@dataclass(frozen=True)
class Made:
    """What has been made. `notes` are worth a line to the user."""

    name: str
    digest: str
    size: int
    seconds: float
    notes: tuple[str, ...] = field(default=())


def bootstrap(request: Request, step: Callable[[str], None] = lambda _: None) -> Made:
    """Make an image and return what was made; raises AppPotError.

    `step` is told what is being done. The store gets the image whole or not at all.
    """
    begin = time.monotonic()
    distribution, suite, name = names(request)
    store = stores()[0]
    check_store(store, name, replace=request.replace)
    erofs.mkfs_program()
    step("looking for a way to install without root")
    mode, folder, mounts = mmdebstrap.choose(
        request.mode,
        foreign=(distribution, suite) != inside.host_release(),
        machine=lambda: inside.problem(DISTRIBUTIONS),
    )
    base = (inside.find_base() or _make_base(request, step)) if mode is Mode.MACHINE else ""
    step("asking the mirror")
    releases = find_releases(request, distribution, suite)
    plan = make_plan(request, distribution, releases, mode, mounts=mounts)
    epoch = source_date(releases)
    log = os.path.join(paths.cache_dir(), "log", f"bootstrap-{distribution}-{suite}.log")
    with workplace(folder) as (place, lock), tempfile.TemporaryFile(dir=place) as archive:
        if base:
            step("starting a machine to install in")
            inside.run(plan, base, epoch=epoch, archive=archive, log=log, step=step)
        else:
            mmdebstrap.run(
                plan, epoch=epoch, folder=place, lock=lock, archive=archive, log=log, step=step
            )
        step("making the layer")
        system = describe(archive)
        words = ["apppot", "bootstrap", request.source, f"--variant={plan.variant}"]
        if plan.include:
            words.append("--include=" + ",".join(plan.include))
        history = process.command_line(words)
        with store.writer() as adding:
            layer = erofs.layer(adding, archive, compression=request.compression, without=left_out)
            digest = adding.image(
                name,
                [layer],
                configuration(system, layer.digest, epoch, history),
                annotations=_provenance(request, system, releases),
                replace=request.replace,
            )
    if request.replace:
        store.clean()
    with suppress(FileNotFoundError):  # another bootstrap of the suite has used it as well
        os.unlink(log)
    notes = _notes(distribution, suite, releases)
    return Made(name, digest, layer.size, time.monotonic() - begin, notes)


def _make_base(request: Request, step: Callable[[str], None]) -> str:
    """Make an image like the host, which has mmdebstrap, and return its digest."""
    distribution, suite = inside.host_release()
    mirror = request.mirror
    if distribution != request.source.partition(":")[0]:  # that mirror has the other's packages
        own = debsources.plan(distribution, suite, "", debsources.host_targets())
        mirror = own[0].uri if own else ""
    base = Request(
        f"{distribution}:{suite}",
        name=f"{inside.BASE}:{suite}",
        include=inside.BASE_PACKAGES,
        bare=True,
        mirror=mirror,
        mode=Mode.FAKECHROOT,
        replace=True,  # another bootstrap may be making it as well
    )
    return bootstrap(base, lambda what: step(f"a first {suite}, to install in: {what}")).digest


def names(request: Request) -> tuple[str, str, str]:
    """Return distribution, suite, and the new image's full reference; raises UsageError."""
    distribution, colon, suite = request.source.partition(":")
    if not colon or distribution not in DISTRIBUTIONS:
        raise UsageError(
            f"'{request.source}' does not name a distribution and a suite",
            hint="such as debian:bookworm, debian:trixie or ubuntu:noble",
        )
    debsources.check_suite(suite)
    for package in request.include:
        if not _PACKAGE.fullmatch(package):
            raise UsageError(
                f"'{package}' is not a package's name",
                hint="--include takes names parted by commas, such as gcc,libc6-dev",
            )
    return distribution, suite, reference.parse_name(request.name or request.source).full


def check_store(store: Store, name: str, *, replace: bool) -> None:
    """Find out before the long work whether its result could be kept; raises ImageError."""
    with store.writer():
        if not replace and any(entry.reference == name for entry in store.entries()):
            raise writer.exists(name, store)


def find_releases(request: Request, distribution: str, suite: str) -> tuple[Release, ...]:
    """Return the suites to install from, the main one first; raises AppPotError."""
    mirror = request.mirror or os.environ.get("APPPOT_MIRROR", "")
    if mirror:
        mirror = debsources.check_mirror(mirror)
    targets = () if mirror else debsources.host_targets()
    sources = debsources.plan(distribution, suite, mirror, targets)
    if not sources:
        sources = debsources.parse_one_line(mmdebstrap.default_sources(suite))
    if not sources:
        raise ImageError(
            f"it is not known where the packages of {distribution}:{suite} are",
            hint="name a mirror with --mirror URL or APPPOT_MIRROR",
        )
    return debsources.releases(sources)


def make_plan(
    request: Request,
    distribution: str,
    releases: Sequence[Release],
    mode: Mode,
    *,
    mounts: bool = True,
) -> mmdebstrap.Plan:
    """Return the call of mmdebstrap that makes what was asked for."""
    components = request.components or debsources.COMPONENTS.get(distribution, ("main",))
    keyring = "" if request.keyring else debsources.archive_keyring(distribution)
    usual = () if request.bare else USUAL
    return mmdebstrap.Plan(
        mode=mode,
        suite=releases[0].source.suite,
        sources=tuple(debsources.one_line(r.source, components, keyring) for r in releases),
        variant=request.variant,
        include=tuple(dict.fromkeys((*usual, *request.include))),
        keyring=os.path.abspath(request.keyring) if request.keyring else "",
        allow_expired=request.allow_expired,
        mounts=mounts,
    )


def source_date(releases: Sequence[Release]) -> int:
    """Return the time that the image is said to be from: `SOURCE_DATE_EPOCH`, or the suite's.

    It is the main suite's date alone, since the others' change daily while the packages that are
    installed stay the same.
    """
    text = os.environ.get("SOURCE_DATE_EPOCH", "")
    if not text:
        return releases[0].date
    if not text.isdigit():
        raise UsageError(f"SOURCE_DATE_EPOCH is '{text}', not a number of seconds since 1970")
    return int(text)


def left_out(path: str) -> bool:
    """Tell whether a path of the installed system stays out of the layer."""
    return path in HOST_FILES


@dataclass(frozen=True)
class System:
    """What an archive says about the system in it."""

    title: str
    version: str
    packages: tuple[str, ...]


def describe(archive: IO[bytes]) -> System:
    """Return what a system's archive says about it; raises ImageError."""
    wanted = {"usr/lib/os-release": "", "var/lib/dpkg/status": ""}
    archive.seek(0)
    try:
        with tarfile.open(fileobj=archive, mode="r:") as tar:
            for member in tar:
                path = member.name.removeprefix("./")
                if path in wanted and (data := tar.extractfile(member)):
                    wanted[path] = data.read().decode("utf-8", "replace")
    except (tarfile.TarError, EOFError) as error:
        raise ImageError(f"the archive that mmdebstrap made is damaged: {error}") from error
    release, status = wanted.values()
    fields = dict(re.findall(r'^([A-Z_]+)="?([^"\n]*)"?$', release, re.MULTILINE))
    packages = []
    for block in status.split("\n\n"):
        said = dict(re.findall(r"^([A-Z][A-Za-z-]*): (.*)$", block, re.MULTILINE))
        if said.get("Status", "").endswith(" installed"):
            packages.append(f"{said['Package']}:{said['Architecture']}={said['Version']}")
    archive.seek(0)
    return System(
        fields.get("PRETTY_NAME", ""), fields.get("VERSION_ID", ""), tuple(sorted(packages))
    )


def configuration(system: System, layer_digest: str, epoch: int, history: str) -> dict[str, Any]:
    """Return the image's OCI configuration."""
    labels = {
        "org.opencontainers.image.title": system.title,
        "org.opencontainers.image.version": system.version,
    }
    created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(epoch))
    return {
        "created": created,
        "architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(
            platform.machine(), platform.machine()
        ),
        "os": "linux",
        "config": {
            "Env": [f"PATH={DEFAULT_PATH}"],
            "Cmd": ["/bin/bash"],
            "Labels": {key: value for key, value in labels.items() if value},
        },
        "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
        "history": [{"created": created, "created_by": history}],
    }


def _provenance(request: Request, system: System, releases: Sequence[Release]) -> dict[str, str]:
    """Return the manifest's annotations: from what the image was made."""
    import hashlib

    listed = "".join(f"{package}\n" for package in system.packages).encode()
    return {
        f"{NAMESPACE}source": request.source,
        f"{NAMESPACE}suites": " ".join(r.source.suite for r in releases),
        f"{NAMESPACE}packages": str(len(system.packages)),
        f"{NAMESPACE}packages.digest": f"sha256:{hashlib.sha256(listed).hexdigest()}",
    }


def _notes(distribution: str, suite: str, releases: Sequence[Release]) -> tuple[str, ...]:
    """Return what the user should know about the suites that were used."""
    if suite in debsources.ROLLING:
        return ()
    used = {release.source.suite for release in releases}
    if f"{suite}-security" in used:
        return ()
    return (f"the mirror has no {suite}-security: this {distribution} lacks security updates",)
