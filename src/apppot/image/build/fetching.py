"""Fetch a file for ADD from a web server; its digest is known beforehand."""

from __future__ import annotations

import hashlib
import http.client
import posixpath
import stat
import urllib.error
import urllib.request
from email.utils import mktime_tz, parsedate_tz
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from apppot.errors import ImageError
from apppot.image.build import packing
from apppot.image.build.context import Item, Selection
from apppot.image.registry import authorities

if TYPE_CHECKING:
    from contextlib import ExitStack

PATIENCE = 60.0  # for an answer, and for each piece of it, in seconds
BIGGEST = 64 << 30
_BILLION = 10**9


def fetch(url: str, checksum: str, stack: ExitStack) -> Selection:
    """Return a file of a web server as something to copy; raises ImageError."""
    name = unquote(posixpath.basename(urlsplit(url).path))
    if not name or name in (".", "..") or "/" in name or "\0" in name:
        raise ImageError(f"ADD {url}: the address does not end with a file's name")
    target = stack.enter_context(packing.named())
    state, size = hashlib.sha256(), 0
    try:
        settings = authorities.usual()
        with urllib.request.urlopen(url, timeout=PATIENCE, context=settings) as answer:  # noqa: S310  http(s) only
            modified = parsedate_tz(answer.headers.get("Last-Modified") or "")
            while piece := answer.read(packing.PIECE):
                state.update(piece)
                size += len(piece)
                if size > BIGGEST:
                    raise ImageError(f"ADD {url}: more than {BIGGEST >> 30} GiB came")
                target.write(piece)
        target.flush()
    except (OSError, http.client.HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise ImageError(f"ADD {url}: {reason}", hint="is the address right?") from error
    found = f"sha256:{state.hexdigest()}"
    if found != checksum:
        raise ImageError(
            f"ADD {url}: it has the digest {found}, not {checksum}",
            hint="the file has changed, or something on the way has changed it",
        )
    mtime = mktime_tz(modified) * _BILLION if modified else 0
    item = Item(name, target.name, stat.S_IFREG | 0o600, size, mtime)
    return Selection((item,), alone=True)
