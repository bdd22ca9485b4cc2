"""How each component of the kit is built: one module each, with the same three names.

`NAME` is the component's; `LINKED` are the static libraries in it; `build(job)` puts its files
below `job.out`. A recipe reads only `job.source`, `job.recipe` and `job.guest`.
"""

from __future__ import annotations

from apppot.kit.recipes import agent, confine, e2fsprogs, erofs, kernel, passt

# The quick ones come first: what is wrong with them should not wait for the kernel.
RECIPES = {module.NAME: module for module in (agent, confine, passt, erofs, e2fsprogs, kernel)}
