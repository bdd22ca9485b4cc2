"""Show each setting's value and where it is from.

It is read from the site's /etc/apppot/config.toml, then the user's ~/.config/apppot/config.toml,
then environment variables; the last one wins. What these files say of signatures holds side by
side, and is shown file by file: no file undoes what another demands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("key", metavar="KEY", nargs="?", help="show this one's value alone")


def main(options: argparse.Namespace) -> int:
    """Print the settings."""
    import json

    from apppot import config
    from apppot.errors import UsageError

    found = config.values()
    if options.key:
        found = tuple(value for value in found if value.setting.key == options.key)
        if not found:
            raise UsageError(f"there is no setting '{options.key}'", hint="see 'apppot config'")
    if options.json:
        rows: dict[str, list[dict[str, object]]] = {}
        for v in found:
            rows.setdefault(v.setting.key, []).append({"value": v.value, "source": v.source})
        table = {k: {**r[0], **({"also": r[1:]} if r[1:] else {})} for k, r in rows.items()}
        print(json.dumps(table, indent=2, ensure_ascii=False))
        return 0
    for value in found:
        shown = json.dumps(value.value, ensure_ascii=False)  # also TOML's form of it
        if options.key:
            print(value.value if isinstance(value.value, str | int) else "\n".join(value.value))
        else:
            print(f"{value.setting.key} = {shown}  # {value.source}: {value.setting.about}")
    return 0
