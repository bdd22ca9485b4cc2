"""mkfs.erofs: makes the images' layers from tar archives."""

from __future__ import annotations

import glob
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from apppot.kit.job import Job

NAME = "erofs-utils"
LINKED = ("libc.a", "libgcc.a", "liblz4.a", "libzstd.a", "liblzma.a", "libz.a")
LEFT_OUT = "compressor_libdeflate.c"  # needs a library that we do not link


def build(job: Job) -> None:
    """Compile mkfs.erofs directly, with our config.h in the place of configure's."""
    tree = job.unpack()
    sources = sorted(
        os.path.relpath(path, tree)
        for path in glob.glob(f"{tree}/lib/*.c")
        if os.path.basename(path) != LEFT_OUT
    )
    job.step(
        "compile",
        [
            *("gcc", "-std=gnu11", "-O2", "-static", "-w", *job.reproducible),
            *("-DNDEBUG", "-DHAVE_CONFIG_H", f'-DEROFS_VERSION="{job.version}"'),
            *("-D_LARGEFILE_SOURCE", "-D_FILE_OFFSET_BITS=64"),
            *(f"-I{job.recipe}", "-Iinclude", *sources, "mkfs/main.c", "-o", "mkfs.erofs"),
            *("-llz4", "-lzstd", "-llzma", "-lz", "-lpthread"),
        ],
        cwd=tree,
    )
    job.install(f"{tree}/mkfs.erofs", "bin/mkfs.erofs")
    job.licences(tree, "COPYING", "LICENSES/GPL-2.0", "LICENSES/Apache-2.0")
