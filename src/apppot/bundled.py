"""Run the image that is in a bundle; called by the bundle's own loader."""

from __future__ import annotations

import os
import sys

from apppot.errors import AppPotError, ExitStatus, ImageError, UsageError
from apppot.lean import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import Any, NoReturn

    from apppot.cli.parser import Parser
    from apppot.image.model import Image, Layer

_HELP = """usage: {0} [OPTION...] [--] [COMMAND [ARGUMENT...]]
       {0} --apppot-help | --apppot-verify | --apppot VERB [OPTION...]

This file is the appliance '{1}'. It runs COMMAND, or the image's own, in a virtual machine of its
own. The options are those of 'apppot run', and come before the command.

  --apppot-verify   read the whole file and check all digests
  --apppot VERB     be the command 'apppot' (such as: --apppot doctor)
"""


def main(path: str, index: dict[str, Any], data: int, words: list[str]) -> NoReturn:
    """Run what the words ask for, and end."""
    from apppot import __main__

    if words[:1] == ["--apppot"]:
        sys.argv = ["apppot", *words[1:]]
        __main__.entry()
        sys.exit(0)
    __main__.fill_closed_streams()
    try:
        status = _run(path, index, data, words)
    except AppPotError as error:
        print(f"apppot: {error}", file=sys.stderr)
        status = ExitStatus.MACHINE
    except KeyboardInterrupt:
        status = ExitStatus.SIGNAL_BASE + 2
    sys.stdout.flush()
    os._exit(status)


def _run(path: str, index: dict[str, Any], data: int, words: list[str]) -> int:
    from apppot.cli import run as verb
    from apppot.cli.options import wanted_from
    from apppot.cli.parser import Parser, takes_value
    from apppot.run import run_for_user

    name = os.path.basename(path)
    parser = Parser(prog=name, allow_abbrev=False)
    verb.configure(parser)
    own, command = _cut(parser, words, takes_value)
    if "--apppot-help" in own or "--help" in own or "-h" in own:
        print(_HELP.format(name, index["name"]))
        parser.usage = argparse_suppress()
        parser.print_help()
        return 0
    if own == ["--apppot-verify"]:
        verify(path, index, data)
        return 0
    image = image_of(path, index, data)
    options = parser.parse_args([*own, image.name])
    save = wanted_from(options, options.save) if options.save else None
    if options.checkpoint_dir is not None:
        raise UsageError(
            "--checkpoint-dir is not for bundles: 'apppot restore' looks for images in the stores",
            hint="pull or load the image into a store, and use 'apppot run'",
        )
    request = verb.run_request(options, command)
    return run_for_user(request, options.report, save, image)


def argparse_suppress() -> str:
    """Return what keeps argparse from printing a synopsis of its own."""
    import argparse

    return argparse.SUPPRESS


def _cut(parser: Parser, words: list[str], takes_value: Any) -> tuple[list[str], list[str]]:
    """Cut the words into the bundle's own and the command's."""
    position = 0
    while position < len(words) and words[position].startswith("-") and words[position] != "--":
        position += 1 + takes_value(parser, words[position])
    command = words[position:]
    return words[:position], command[1:] if command[:1] == ["--"] else command


def image_of(path: str, index: dict[str, Any], data: int) -> Image:
    """Return the image, its layers in this file or in the stores; raises ImageError."""
    from apppot.image import model

    absent = [entry for entry in index["layers"] if entry["at"] is None]
    layers = list(_base_layers(path, index, absent)) if absent else []
    layers += [
        model.Layer(
            entry["digest"],
            entry["size"],
            path,
            offset=data + entry["at"],
            content=entry["content"],
        )
        for entry in index["layers"]
        if entry["at"] is not None
    ]
    config = model.config(index["config"], f"the configuration in {path}")
    return model.Image(index["name"], index["digest"], tuple(layers), config)


def _base_layers(path: str, index: dict[str, Any], absent: list[dict[str, Any]]) -> list[Layer]:
    """Return the base's layers from the stores: the same files, or the same contents."""
    from apppot.image import model
    from apppot.image.store import stores

    found = []
    for entry in absent:
        for store in stores():
            file = store.blob_path(entry["digest"])
            try:
                if os.stat(file).st_size == entry["size"] and os.access(file, os.R_OK):
                    found.append(
                        model.Layer(entry["digest"], entry["size"], file, content=entry["content"])
                    )
                    break
            except OSError:
                continue
    if len(found) == len(absent):
        return found
    from apppot.image import changefile, changes

    base = index["base"]
    same = changes.find_base(
        changefile.Base(base["name"], base["digest"], base["chain"], len(absent))
    )
    if same:
        return list(same.layers)
    raise ImageError(
        f"{path} needs its base '{base['name']}' ({base['digest'][:19]}, layers"
        f" {base['chain'][:19]}), which is in no store: looked in "
        + ", ".join(store.path for store in stores()),
        hint=f"pull or make '{base['name']}', or name the store that has it with APPPOT_STORE",
    )


def verify(path: str, index: dict[str, Any], data: int) -> None:
    """Read the whole bundle and check all digests; raises ImageError."""
    import hashlib

    parts = [(entry, entry["digest"]) for entry in index["layers"] if entry["at"] is not None]
    parts.append((index["code"], "sha256:" + index["code"]["sha256"]))
    with open(path, "rb") as file:
        for part, digest in parts:
            file.seek(data + part["at"])
            state, left = hashlib.sha256(), part["size"]
            while left > 0 and (piece := file.read(min(left, 1 << 20))):
                state.update(piece)
                left -= len(piece)
            if f"sha256:{state.hexdigest()}" != digest:
                raise ImageError(
                    f"the bundle {path} is damaged: what should be {digest[:19]} is"
                    f" sha256:{state.hexdigest()[:12]}",
                    hint="get the file again from where it is from",
                )
    print(f"{path}: {index['name']}, all {len(parts)} parts are as they were made")
