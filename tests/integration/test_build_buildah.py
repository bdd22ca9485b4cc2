"""The same Containerfile, built by buildah and by AppPot: the same files and configuration.

Needs root, because buildah's storage does; and buildah.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from apppot import paths

if TYPE_CHECKING:
    from collections.abc import Iterator

IMAGE = os.environ.get("APPPOT_TEST_IMAGE", "debian:bookworm")
BASE = "localhost/apppot-test:base"
# Made anew by every tool at each start, or by the test itself.
# (The storage of buildah decides on the mode of /.)
_APART = "/dev /proc /sys /run /tmp /job /etc/hosts /etc/hostname /etc/resolv.conf"
_ALL = ("--one-file-system", "--exclude=./dev/*", "-cf", "-", ".")
_PATHS = " -o ".join(f"-path {path}" for path in _APART.split())
LOOK = f"""
find / -xdev -mindepth 1 \\( {_PATHS} \\) -prune -o \\
    -type d -printf '%y %m %U:%G %p\\n' -o -printf '%y %m %U:%G %n %p -> %l\\n' | sort
cd /; find made* srv opt home -xdev -type f -print0 | sort -z | xargs -0 sha256sum
find made* opt -xdev ! -type d -printf '%T@ %p\\n' | grep kept | sort
"""
HEAD = """ARG BASE
FROM ${BASE} AS tools
RUN mkdir -p /out/lib && echo lib >/out/lib/so.1 && ln -s so.1 /out/lib/so && chown -R 5:6 /out/lib
FROM ${BASE}
ARG COLOUR=red
ENV COLOUR=${COLOUR:-none} TEXT="two words" QUOTED='$COLOUR' \\
    MORE=a\\ b
LABEL "a b"=c d="${TEXT}"
"""
COPIES = """WORKDIR /srv/app
COPY . ./
COPY tree /made.d
COPY tree/kept tree/sub /made.e/
COPY --chown=12:34 tree/kept /opt/one
COPY tr*e/k?pt /opt/new/name
COPY --from=tools /out /opt/out
COPY --from=tools /out/lib/so /opt/
ADD archive.tgz /opt/unpacked/
COPY archive.tgz /opt/packed/
ENTRYPOINT ["/bin/echo", "x"]
CMD ["y"]
"""
RUNS = """RUN useradd -u 777 -m joe && ln /etc/motd /made && \\
    rm -r /usr/share/common-licenses /etc/issue
COPY --chown=joe:tty tree /home/joe/tree
SHELL ["/bin/bash", "-c"]
RUN mkdir -p /opt && [[ $COLOUR == blue ]] && echo "$TEXT/$QUOTED/$MORE" >/opt/said && \\
    chmod 4750 /opt/said
RUN ["/bin/sh", "-c", "echo $0 >/opt/zero"]
RUN rm -r /usr/share/doc && mkdir /usr/share/doc && echo new >/usr/share/doc/new && \\
    mv /etc/skel /srv
USER joe
WORKDIR /srv/sub
RUN id >/home/joe/id && pwd >>/home/joe/id && echo $HOME >>/home/joe/id
EXPOSE 80 53/udp
VOLUME /data
STOPSIGNAL SIGINT
ENTRYPOINT ["/bin/echo"]
"""


def _obstacle() -> str:
    if not shutil.which("buildah"):
        return "buildah is not installed"
    if os.getuid() != 0:
        return "buildah's storage needs root"
    return ""


pytestmark = [
    pytest.mark.skipif(bool(_obstacle()), reason=_obstacle()),
    pytest.mark.slow,
    pytest.mark.timeout(900),
]


@dataclass(frozen=True)
class Site:
    """A folder with buildah's storage, a store, and a context."""

    folder: str

    @property
    def context(self) -> str:
        return os.path.join(self.folder, "context")

    def buildah(self, *words: str) -> str:
        root = os.path.join(self.folder, "containers")
        storage = ["--root", root, "--runroot", f"{root}.run"]
        return _output(["buildah", *storage, *words], self.context)

    def apppot(self, *words: str) -> str:
        store = os.path.join(self.folder, "store")
        environment = {**os.environ, "APPPOT_STORE": ":".join((store, *paths.store_dirs()))}
        argv = [sys.executable, "-m", "apppot", *words]
        return _output(argv, self.context, env=environment)


def _output(argv: list[str], cwd: str, **more: Any) -> str:
    done = subprocess.run(argv, cwd=cwd, capture_output=True, check=False, **more)
    assert done.returncode == 0, done.stderr.decode("utf-8", "replace")
    text: str = done.stdout.decode("utf-8", "surrogateescape")
    return text


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    made = Site(tempfile.mkdtemp(prefix="apppot-buildah-", dir="/var/tmp"))
    try:
        os.mkdir(made.context)
        _fill(made.context)
        archive = os.path.join(made.folder, "base.tar")
        words = ("--root", "--network", "none", "--no-job-dir", IMAGE, "--", "tar", "-C", "/")
        with open(archive, "wb") as target:
            subprocess.run(
                [sys.executable, "-m", "apppot", "run", *words, *_ALL],
                stdout=target,
                check=True,
            )
        container = made.buildah("from", "scratch").strip()
        made.buildah("add", container, archive, "/")
        made.buildah("commit", "--rm", container, BASE)
        yield made
    finally:
        made.buildah("umount", "--all")
        made.buildah("rm", "--all")
        mounted = os.path.join(made.folder, "containers", "overlay")
        subprocess.run(["umount", "-q", mounted], check=False)
        subprocess.run(["rm", "-rf", made.folder], check=False)


def _fill(context: str) -> None:
    tree = os.path.join(context, "tree")
    os.makedirs(os.path.join(tree, "sub", "deep"), mode=0o750)
    for name, mode in {
        "kept": 0o640,
        "sub/run": 0o755,
        "sub/deep/x": 0o600,
        "skipped": 0o644,
    }.items():
        path = os.path.join(tree, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(name)
        os.chmod(path, mode)
        os.utime(path, (1_000_000_000, 1_000_000_000))
    os.symlink("sub/run", os.path.join(tree, "link"))
    os.symlink("/nowhere", os.path.join(tree, "dangling"))
    os.chmod(os.path.join(tree, "sub"), 0o711)
    with tarfile.open(os.path.join(context, "archive.tgz"), "w:gz") as archive:
        member = tarfile.TarInfo("in/file")
        member.uid, member.gid, member.mode = 7, 8, 0o2755
        archive.addfile(member)
    with open(os.path.join(context, ".dockerignore"), "w", encoding="utf-8") as file:
        file.write("**/skipped\nContainerfile\n")


def _builds(site: Site, text: str) -> tuple[str, str]:
    """Build with both; return what is found in both results."""
    with open(os.path.join(site.context, "Containerfile"), "w", encoding="utf-8") as file:
        file.write(text)
    given = ("--build-arg", "COLOUR=blue", "-t", "built")
    site.apppot("build", "--network", "none", *given, "--build-arg", f"BASE={IMAGE}", ".")
    words = ("run", "--user", "root", "--network", "none", "--no-job-dir", "-w", "/")
    # The entry point is /bin/echo: an image without one lets us look.
    with open(os.path.join(site.folder, "Look"), "w", encoding="utf-8") as file:
        file.write("FROM built\nENTRYPOINT []\n")
    site.apppot("build", "-t", "look", "-f", os.path.join(site.folder, "Look"), ".")
    ours = site.apppot(*words, "look", "--", "sh", "-c", LOOK)
    site.buildah(
        "bud",
        "--isolation",
        "chroot",
        "--format",
        "docker",
        *given,
        "--build-arg",
        f"BASE={BASE}",
        ".",
    )
    container = site.buildah("from", "built").strip()
    folder = site.buildah("mount", container).strip()
    return ours, _output(["chroot", folder, "sh", "-c", LOOK], site.context)


@pytest.mark.parametrize("steps", [COPIES, RUNS], ids=["copies", "runs"])
def test_files_and_configuration_are_the_same(site: Site, steps: str) -> None:
    ours, theirs = (set(text.splitlines()) for text in _builds(site, HEAD + steps))
    assert len(ours) > 5000
    differences = [f"{'apppot ' if line in ours else 'buildah'}: {line}" for line in ours ^ theirs]
    if differences:
        pytest.fail("\n".join(sorted(differences, key=lambda line: line[9:])), pytrace=False)
    mine = json.loads(site.apppot("inspect", "built"))["config"]["config"]
    other = json.loads(site.buildah("inspect", "--type", "image", "built"))["OCIv1"]["config"]
    mine.pop("Shell", None)  # not in OCI's form of what buildah tells
    for config in (mine, other):
        config["Env"] = sorted(config["Env"])
        labels = config["Labels"]
        config["Labels"] = {k: labels[k] for k in labels if not re.match(r"io\.|org\.", k)}
    assert mine == other
