"""Fetch files for ADD from web servers; a digest that is known beforehand is checked."""

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
from apppot.image.build.context import Item
from apppot.image.registry import authorities

if TYPE_CHECKING:
    from contextlib import ExitStack

PATIENCE = 60.0  # for an answer, and for each piece of it, in seconds
BIGGEST = 64 << 30
_BILLION = 10**9


def is_address(source: str) -> bool:
    """Tell whether a source of ADD is on a web server."""
    return source.startswith(("http://", "https://"))


def fetch(url: str, checksum: str, stack: ExitStack) -> Item:
    """Return a file of a web server as something to copy; raises ImageError.

    `checksum` is '' if nobody has said it.
    """
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
        told = isinstance(error, urllib.error.HTTPError)  # with its number
        reason = error if told else getattr(error, "reason", None) or error
        raise ImageError(f"ADD {url}: {reason}", hint="is the address right?") from error
    found = f"sha256:{state.hexdigest()}"
    if checksum and found != checksum:
        raise ImageError(
            f"ADD {url}: it has the digest {found}, not {checksum}",
            hint="the file has changed, or something on the way has changed it",
        )
    mtime = mktime_tz(modified) * _BILLION if modified else 0
    return Item(name, target.name, stat.S_IFREG | 0o600, size, mtime)
