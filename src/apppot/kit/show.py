"""Show a kit to a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from apppot.kit.manifest import Component, Manifest


def origin(component: Component) -> str:
    """Return where a component's source came from, in a few words."""
    source = component.sources[0] if component.sources else None
    if source is None or source.origin == "apppot":
        return "AppPot's own source"
    if source.origin == "archive":
        return f"{source.file} (pinned)"
    expired = ", expired" if source.expired else ""
    return f"{source.package} {source.version} ({source.suite}{expired})"


def table(folder: str, manifest: Manifest) -> str:
    """Return the kit's components and files as text."""
    lines = [
        f"kit      {folder}",
        f"digest   sha256:{manifest.digest}",
        f"made by  apppot {manifest.apppot}, {manifest.toolchain.get('gcc', 'unknown compiler')}",
        "",
    ]
    rows = [("COMPONENT", "VERSION", "FILE", "SIZE", "SOURCE")]
    for name, component in manifest.components.items():
        count = len(component.patches)
        patched = f" + {count} patch{'es' if count > 1 else ''}" if count else ""
        for path in component.files:
            if not path.startswith("licenses/"):
                size = f"{manifest.files[path].size / 1e6:.2f} MB"
                rows.append((name, component.version, path, size, origin(component) + patched))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    for row in rows:
        cells = [f"{cell:{width}}" for cell, width in zip(row, widths, strict=False)]
        cells[3] = f"{row[3]:>{widths[3]}}"
        lines.append("  ".join((*cells, row[4])).rstrip())
    return "\n".join(lines) + "\n"
