"""The libraries that are linked into the kit's programs: their sources and licences."""

from __future__ import annotations

import os
import shutil

from apppot import process
from apppot.kit import tools
from apppot.kit.manifest import Library

FOLDER = "licenses/libraries"
LICENCES = {
    "libc.a": "LGPL-2.1-or-later",
    "libgcc.a": "GPL-3.0-or-later WITH GCC-exception-3.1",
    "libz.a": "Zlib",
    "liblz4.a": "BSD-2-Clause",
    "libzstd.a": "BSD-3-Clause",
    "liblzma.a": "0BSD",  # in the public domain before 5.6
    "musl libc.a": "MIT",
}
DOC = "/usr/share/doc"
_FORMAT = "-f=${Package}\\t${source:Package}\\t${source:Version}"


def linked(name: str) -> tuple[Library, str]:
    """Return what dpkg knows of a library, and the path of its licence's text; '' if nothing."""
    licence = LICENCES[name]
    if shutil.which("dpkg-query"):
        owner = process.run(["dpkg-query", "-S", tools.library(name)], check=False)
        package = owner.stdout.decode().partition(": ")[0]
        if package:
            said = process.run(["dpkg-query", "-W", _FORMAT, package]).stdout.decode()
            binary, source, version = said.split("\t")
            text = os.path.join(DOC, binary, "copyright")
            return Library(name, licence, source, version), text if os.path.isfile(text) else ""
    return Library(name, licence), ""


def write_texts(names: tuple[str, ...], folder: str) -> None:
    """Put the licences' texts into a component's part of the kit.

    Components share them, so a text's name tells the version that it belongs to.
    """
    for library, text in map(linked, names):
        if text:
            version = library.version.replace(":", "%3a")
            target = os.path.join(folder, FOLDER, f"{library.package}_{version}")
            os.makedirs(os.path.dirname(target), exist_ok=True)
            shutil.copyfile(text, target)
            os.chmod(target, 0o644)
