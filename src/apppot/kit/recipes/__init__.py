"""How each component of the kit is built: one module each, with the same three names.

`NAME` is the component's; `LINKED` are the static libraries in it; `build(job)` puts its files
below `job.out`. `PATCHES`, if it is there, are patterns for files below `kit/` that take the place
of the component's own patches. A recipe reads only `job.source`, `job.recipe` and `job.guest`.
"""

from __future__ import annotations

from apppot.kit.recipes import agent, confine, disk, e2fsprogs, erofs, kernel, passt, pc_kernel

# The quick ones come first: what is wrong with them should not wait for the kernels.
RECIPES = {
    module.NAME: module
    for module in (agent, confine, disk, passt, erofs, e2fsprogs, kernel, pc_kernel)
}
