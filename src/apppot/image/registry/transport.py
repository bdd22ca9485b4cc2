"""HTTP to one registry: which redirects are followed, what is tried again, and how much is read.

A registry's word is not trusted: credentials stay with its own origin, nothing goes from HTTPS to
HTTP, and nobody is led to addresses of this network.
"""

from __future__ import annotations

import ipaddress
import time
import urllib.request
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import urljoin, urlsplit

import urllib3
from urllib3.connection import HTTPSConnection
from urllib3.connectionpool import HTTPSConnectionPool

from apppot import __version__
from apppot.errors import AppPotError, ImageError
from apppot.image.registry import authorities

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from urllib3 import BaseHTTPResponse

TRIES = 5
FIRST_WAIT = 0.3
LONGEST_WAIT = 15.0
MOST_REDIRECTS = 5
PASSING = frozenset({408, 425, 429, 500, 502, 503, 504})
REDIRECTS = frozenset({301, 302, 303, 307, 308})
IDEMPOTENT = frozenset({"GET", "HEAD"})
TIMEOUT = urllib3.Timeout(connect=20, read=60)
_PORTS = {"http": 80, "https": 443}
_PLAIN_HINT = "a registry without TLS needs --plain-http"


class RegistryError(ImageError):
    """A registry has refused something, or does not do what it should."""

    def __init__(self, message: str, *, hint: str = "", code: int = 0) -> None:
        super().__init__(message, hint=hint)
        self.code = code


class UnreachableError(RegistryError):
    """There is no connection, or it broke off."""


class _Guarded(HTTPSConnection):
    """A connection that does not go to this network, whatever a name's address is by now."""

    def connect(self) -> None:
        super().connect()
        if self.sock is not None and self.proxy is None:
            check_address(self.sock.getpeername()[0], self.host)


class _GuardedPool(HTTPSConnectionPool):
    ConnectionCls = _Guarded


def check_address(text: str, name: str) -> None:
    """Check that an address is a public one; raises RegistryError."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return  # a name
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped:
        address = address.ipv4_mapped
    if not address.is_global or address.is_multicast:
        raise RegistryError(
            f"the registry leads to {name} ({text}), which is an address of this network; that is"
            " not followed"
        )


@dataclass(frozen=True)
class Origin:
    """A scheme, a host and a port: where credentials are kept to."""

    scheme: str
    host: str
    port: int

    @classmethod
    def of(cls, url: str) -> Origin:
        """Return a URL's origin; raises RegistryError."""
        try:
            parts = urlsplit(url)
            port = parts.port or _PORTS[parts.scheme]
        except (ValueError, KeyError) as error:
            raise RegistryError(f"the registry gives the address {url[:200]!r}") from error
        if not parts.hostname or parts.username or parts.password:
            raise RegistryError(f"the registry gives the address {url[:200]!r}")
        return cls(parts.scheme, parts.hostname, port)


class Transport:
    """Requests to one registry. `authorise` gives the header for a request, or none."""

    def __init__(self, server: str, *, plain_http: bool, tries: int = TRIES) -> None:
        self.base = f"{'http' if plain_http else 'https'}://{server}"
        self.plain_http = plain_http
        self.origin = Origin.of(self.base)
        self.tries = tries
        self._own = self._manager(server)
        self._others = self._manager("")

    def _manager(self, server: str) -> urllib3.PoolManager:
        """Return a pool of connections: the registry's own, or (with '') one for redirects."""
        more: dict[str, Any] = {}
        if not self.plain_http:
            more["ssl_context"] = authorities.context(server) if server else authorities.usual()
        headers = {"User-Agent": f"apppot/{__version__}"}
        settings = {"timeout": TIMEOUT, "retries": False, "maxsize": 8, "headers": headers, **more}
        proxy = urllib.request.getproxies().get(self.origin.scheme, "")
        host = server.partition(":")[0] or "other.invalid"
        if proxy and not urllib.request.proxy_bypass(host):
            return urllib3.ProxyManager(proxy, **settings)
        manager = urllib3.PoolManager(**settings)
        if not server:
            manager.pool_classes_by_scheme = {"https": _GuardedPool}
        return manager

    def url(self, path: str) -> str:
        """Return the URL of a path of the registry."""
        return self.base + path

    def open(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        *,
        body: bytes | IO[bytes] | None = None,
        elsewhere: bool = False,
        realm: bool = False,
    ) -> BaseHTTPResponse:
        """Return the answer, not yet read, of whatever status but redirects.

        With `elsewhere`, redirects to other public hosts are followed. With `realm`, the request
        itself may go to another host: the one that gives tokens. Raises RegistryError.
        """
        for _ in range(MOST_REDIRECTS + 1):
            own = Origin.of(url) == self.origin
            if not own:
                self._check_other(url, realm=realm)
            sent = headers if own or realm else _without_secrets(headers)
            response = self._tried(method, url, sent, body, own=own or self._same_host(url))
            if response.status not in REDIRECTS:
                return response
            target = urljoin(url, response.headers.get("Location", ""))
            response.release_conn()
            response.close()
            self._check_redirect(url, target, follow=method in IDEMPOTENT, elsewhere=elsewhere)
            url, realm = target, False
        raise RegistryError(f"the registry {self.base} redirects again and again")

    def _same_host(self, url: str) -> bool:
        return Origin.of(url).host == self.origin.host

    def _check_other(self, url: str, *, realm: bool) -> None:
        """Check a URL that is not the registry's own; raises RegistryError."""
        origin = Origin.of(url)
        if self._same_host(url) and origin.scheme == self.origin.scheme:
            return
        if origin.scheme != "https":
            what = "gets its tokens from" if realm else "leads to"
            raise RegistryError(
                f"the registry {self.base} {what} {url[:200]}, which is not protected by TLS"
            )
        check_address(origin.host, origin.host)

    def _check_redirect(self, url: str, target: str, *, follow: bool, elsewhere: bool) -> None:
        """Check that a redirect may be followed; raises RegistryError."""
        old, new = Origin.of(url), Origin.of(target)
        if follow and new == old:
            return
        shown = f"the registry {self.base} redirects to {new.scheme}://{new.host}:{new.port}"
        if old.scheme == "https" and new.scheme != "https":
            raise RegistryError(f"{shown}, which is not protected by TLS; that is not followed")
        if self.plain_http:
            raise RegistryError(
                f"{shown}; without TLS no other host is believed",
                hint="use the registry without --plain-http, or name that host itself",
            )
        if not (follow and elsewhere):
            raise RegistryError(f"{shown}; that is followed for blobs only")
        check_address(new.host, new.host)

    def _tried(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | IO[bytes] | None,
        *,
        own: bool,
    ) -> BaseHTTPResponse:
        """Send a request, again if it is idempotent and the failure may pass."""
        manager = self._own if own else self._others
        again = method in IDEMPOTENT or (method == "PUT" and isinstance(body, bytes))
        tries = self.tries if again else 1
        for attempt in range(tries):
            last = attempt + 1 == tries
            try:
                response = manager.request(
                    method,
                    url,
                    headers={**manager.headers, **headers},
                    body=body,
                    redirect=False,
                    preload_content=False,
                    decode_content=False,
                )
            except urllib3.exceptions.HTTPError as error:
                if last or _is_final(error):
                    raise self.unreachable(url, error) from error
                time.sleep(wait(attempt))
                continue
            if response.status not in PASSING or last:
                return response
            pause = _asked_wait(response.headers.get("Retry-After", ""), attempt)
            response.close()
            time.sleep(pause)
        raise AssertionError("not reached")

    def unreachable(self, url: str, error: Exception) -> RegistryError:
        """Return the error for a connection that failed."""
        origin = Origin.of(url)
        reason = getattr(error, "reason", None) or error
        text = str(reason).rpartition(">: ")[2] or type(reason).__name__
        cause = reason.__cause__ or reason.__context__
        if isinstance(cause, RegistryError):
            return cause
        hint = "check the name and the network"
        if "CERTIFICATE_VERIFY_FAILED" in str(reason):
            folder = authorities.folders(urlsplit(self.base).netloc)[0]
            hint = f"if it has an authority of its own, put that one's certificate into {folder},"
            hint += " as a .crt, or name it with SSL_CERT_FILE"
        elif "SSL" in str(reason):
            hint = _PLAIN_HINT
        message = f"cannot reach {origin.host}:{origin.port}: {text[:300]}"
        return (RegistryError if _is_final(error) else UnreachableError)(message, hint=hint)


def wait(attempt: int) -> float:
    """Return how long to wait before another try."""
    return min(FIRST_WAIT * 3.0**attempt, LONGEST_WAIT)


def _asked_wait(text: str, attempt: int) -> float:
    return min(float(text), LONGEST_WAIT) if text.isdigit() else wait(attempt)


def _is_final(error: Exception) -> bool:
    """Tell whether another try makes no sense: a certificate, a protocol, our own refusal."""
    reason = getattr(error, "reason", error)
    return isinstance(reason, urllib3.exceptions.SSLError | AppPotError) or isinstance(
        error, urllib3.exceptions.LocationValueError
    )


def _without_secrets(headers: Mapping[str, str]) -> dict[str, str]:
    return {key: value for key, value in headers.items() if key.lower() != "authorization"}


def read(response: BaseHTTPResponse, limit: int, what: str) -> bytes:
    """Return a small body; raises RegistryError if it has more than `limit` bytes."""
    try:
        pieces: list[bytes] = []
        size = 0
        for piece in stream(response):
            size += len(piece)
            if size > limit:
                raise RegistryError(f"{what} has more than {limit >> 10} KiB")
            pieces.append(piece)
        return b"".join(pieces)
    except urllib3.exceptions.HTTPError as error:
        raise RegistryError(f"{what} breaks off: {error}") from error
    finally:
        response.close()


def stream(response: BaseHTTPResponse, size: int = 1 << 18) -> Iterable[bytes]:
    """Give a body's pieces; raises urllib3's errors."""
    return response.stream(size, decode_content=False)
