"""A layer that is made of changes while they leave the machine."""

from __future__ import annotations

import os
import shutil
import threading
from functools import partial
from typing import TYPE_CHECKING

from apppot import paths, process
from apppot.errors import AppPotError, ProcessError
from apppot.image import erofs

if TYPE_CHECKING:
    from contextlib import ExitStack

    from apppot.image.model import Image
    from apppot.image.store import Store
    from apppot.image.writer import Writer


class GrowingLayer:
    """An archive goes in at `target`; a child process makes a file for a store of it.

    Once it is `made`, `path` is the file, and `content` its content digest: '' if there was nothing
    in the archive. See apppot.capturing.Growing.
    """

    def __init__(self, adding: Writer) -> None:
        self.adding = adding
        self.path = adding.temporary()
        self.content = ""
        self.made = False
        reader, self.target = erofs.wide_pipe()
        try:
            self._child = process.Beside(partial(_make, reader, self.target, self.path))
        except BaseException:
            self.close()
            raise
        finally:
            os.close(reader)
        self.result = self._child.descriptor

    def close(self) -> None:
        """Say that everything has been written."""
        if self.target >= 0:
            os.close(self.target)
        self.target = -1

    def taken(self) -> bool:
        """Tell whether the layer is made; once, after `close`."""
        try:
            self.content = self._child.result()
        except ProcessError:
            return False
        self.made = True
        return True

    def drop(self) -> None:
        """Give it up."""
        self.close()
        self._child.end()


def begin(store: Store, stack: ExitStack) -> GrowingLayer | None:
    """Begin a layer; None if that can't be done here. `stack` ends what has not ended then."""
    try:
        adding = stack.enter_context(store.writer())
        if threading.active_count() > 1:  # who keeps a lease; a fork would end up without it
            return None
        layer = GrowingLayer(adding)
    except (AppPotError, OSError):
        return None  # the reason is found, and told, when the archive is there
    stack.callback(layer.drop)
    return layer


def rescue(layer: GrowingLayer, image: Image) -> str:
    """Make a changes file of a layer that could not become an image; return its path, or ''."""
    from apppot.image import changes, saving, writer

    path = os.path.join(paths.scratch_dir(), f"apppot-{os.getpid()}.changes")
    try:
        with open(layer.path, "rb") as source, open(path, "xb") as target:
            shutil.copyfileobj(source, target)
            source.seek(0)
            digest, size = writer.digest_of(source)
            about = {"digest": digest, "size": size, "content": layer.content}
            base = changes.base_of(image)
            config = changes.with_layer(saving.configuration(image), base, layer.content)
            target.write(changes.trailer(about, base, config))
    except (OSError, AppPotError):
        return ""
    return path


def _make(reader: int, target: int, path: str) -> str:
    """Be the child: return the layer's content digest, '' for no changes."""
    os.close(target)  # or its end would never come
    with open(reader, "rb", buffering=erofs.PIECE) as source:
        made = erofs.make_of_flow(source, path)
    return made.content if made else ""
