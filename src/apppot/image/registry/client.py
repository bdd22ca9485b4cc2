"""A registry's repository: manifests and blobs in and out, with credentials as it asks for them."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from typing import IO, TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit, urlunsplit

import urllib3

from apppot.errors import ImageError
from apppot.image.reference import is_digest
from apppot.image.registry import credentials, manifests
from apppot.image.registry.transport import (
    PASSING,
    Origin,
    RegistryError,
    Transport,
    UnreachableError,
    read,
    stream,
    wait,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from urllib3 import BaseHTTPResponse

    from apppot.image.model import Descriptor
    from apppot.image.registry.names import Place

BIGGEST_ANSWER = 1 << 20
OK, CREATED, ACCEPTED, PARTIAL, UNAUTHORISED, FORBIDDEN, MISSING = 200, 201, 202, 206, 401, 403, 404
RANGE = 416
UPLOADS = 3
_PARAMETER = re.compile(r'([A-Za-z_]+)="((?:[^"\\]|\\.)*)"|([A-Za-z_]+)=([^\s,"]+)')


class Repository:
    """One repository of a registry; may be used by several threads."""

    def __init__(self, place: Place, *, plain_http: bool = False) -> None:
        self.place = place
        self.transport = Transport(place.server, plain_http=plain_http)
        self._headers: dict[str, str] = {}  # scope -> Authorization
        self._lock = threading.Lock()
        self._credentials: credentials.Credentials | None = None

    def manifest(self, version: str) -> tuple[bytes, str]:
        """Return a manifest's bytes and digest; raises RegistryError."""
        what = f"the manifest of {self.place.host}/{self.place.repository}@{version}"
        response = self._ask("GET", f"manifests/{version}", {"Accept": manifests.ACCEPT})
        self._expect(response, {OK}, f"'{self.place}'" if version == self.place.version else what)
        told = response.headers.get("Docker-Content-Digest", "")
        data = read(response, manifests.BIGGEST_MANIFEST, what)
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        wanted = version if is_digest(version) else told if is_digest(told) else digest
        if digest != wanted:
            raise RegistryError(f"{what} should have the digest {wanted}, but has {digest}")
        return data, digest

    def small_blob(self, blob: Descriptor, what: str) -> bytes:
        """Return a blob that fits into memory, checked; raises RegistryError."""
        data = self.any_blob(blob.digest, blob.size)
        if len(data) != blob.size:
            raise RegistryError(f"{what} has {len(data)} bytes, not {blob.size}")
        return data

    def any_blob(self, digest: str, limit: int) -> bytes:
        """Return a blob of at most `limit` bytes, checked; raises RegistryError."""
        response = self._ask("GET", f"blobs/{digest}", {}, elsewhere=True)
        self._expect(response, {OK}, f"the blob {digest}")
        data = read(response, limit, f"the blob {digest}")
        found = f"sha256:{hashlib.sha256(data).hexdigest()}"
        if found != digest:
            raise RegistryError(f"a blob should have the digest {digest}, but has {found}")
        return data

    def blob(self, blob: Descriptor, begin: int) -> Iterator[bytes]:
        """Give a blob's bytes from `begin` on, going on after interruptions; raises RegistryError.

        They are as many as they should be; their digest is the caller's to check.
        """
        failures = 0
        while begin < blob.size:
            before = begin
            try:
                for piece in self._part(blob, begin):
                    begin += len(piece)
                    if begin > blob.size:
                        raise RegistryError(
                            f"the registry sends more than the {blob.size} bytes of {blob.digest}"
                        )
                    yield piece
            except urllib3.exceptions.HTTPError as error:
                failure: Exception = error
            else:
                failure = EOFError("it ends too early")
            if begin == blob.size:
                return
            failures = failures + 1 if begin == before else 1
            if failures >= self.transport.tries:
                raise RegistryError(
                    f"the registry {self.place.host} does not send all of {blob.digest}:"
                    f" {begin} of {blob.size} bytes ({failure})",
                    hint="try again: what has arrived is kept",
                ) from failure
            threading.Event().wait(wait(failures - 1))

    def _part(self, blob: Descriptor, begin: int) -> Iterator[bytes]:
        headers = {"Range": f"bytes={begin}-"} if begin else {}
        response = self._ask("GET", f"blobs/{blob.digest}", headers, elsewhere=True)
        try:
            self._expect(response, {OK, PARTIAL}, f"the layer {blob.digest}")
            skip = begin
            if response.status == PARTIAL:
                given = response.headers.get("Content-Range", "")
                if not given.startswith(f"bytes {begin}-"):
                    raise RegistryError(f"the registry sends another part: {given[:60]!r}")
                skip = 0
            for piece in stream(response):
                if skip >= len(piece):
                    skip -= len(piece)
                    continue
                yield piece[skip:] if skip else piece
                skip = 0
        finally:
            response.close()

    def has(self, digest: str) -> bool:
        """Tell whether a blob is there; raises RegistryError."""
        response = self._ask("HEAD", f"blobs/{digest}", {}, elsewhere=True, push=True)
        response.close()
        if response.status == MISSING:
            return False
        self._expect(response, {OK}, f"the blob {digest}")
        return True

    def mount(self, digest: str, source: str) -> bool:
        """Let a blob of another repository of the registry be one of this; tell whether it is."""
        query = urlencode({"mount": digest, "from": source})
        response = self._ask("POST", f"blobs/uploads/?{query}", {"Content-Length": "0"}, push=True)
        read(response, BIGGEST_ANSWER, "the registry's answer")
        if response.status == ACCEPTED:  # it waits for the blob to be sent instead
            place = self._upload_address(response.headers.get("Location", ""), "")
            self._send("DELETE", place, {}).close()
        return response.status == CREATED

    def upload(self, digest: str, size: int, content: IO[bytes]) -> None:
        """Send a blob; raises RegistryError.

        If that breaks off it is sent anew: Docker's registry forgets a part that it has got.
        """
        for attempt in range(UPLOADS):
            last = attempt + 1 == UPLOADS
            try:
                done = self._upload(digest, size, content)
            except UnreachableError as error:
                if last:
                    raise RegistryError(
                        f"the registry {self.place.host} does not take {digest} ({size} bytes):"
                        f" {error.message} (tried {UPLOADS} times)",
                        hint="push again: layers that have arrived are not sent again",
                    ) from error
            else:
                body = read(done, BIGGEST_ANSWER, "the registry's answer")
                if last or done.status not in PASSING:
                    self._expect(done, {CREATED}, f"the blob {digest}", body)
                    return
            threading.Event().wait(wait(attempt))

    def _upload(self, digest: str, size: int, content: IO[bytes]) -> BaseHTTPResponse:
        """Send a blob once; return the answer to it, or to the question where to."""
        response = self._ask("POST", "blobs/uploads/", {"Content-Length": "0"}, push=True)
        if response.status in PASSING:
            return response
        body = read(response, BIGGEST_ANSWER, "the registry's answer")
        self._expect(response, {ACCEPTED}, f"'{self.place}'", body)
        target = self._upload_address(response.headers.get("Location", ""), digest)
        content.seek(0)
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        return self._send("PUT", target, headers, content)

    def _upload_address(self, location: str, digest: str) -> str:
        """Return where a blob is to be sent: to the registry itself; raises RegistryError."""
        parts = urlsplit(urljoin(self.transport.url(self._path("blobs/uploads/")), location))
        query = parse_qsl(parts.query, keep_blank_values=True)
        query += [("digest", digest)] if digest else []
        target = urlunsplit(parts._replace(query=urlencode(query), fragment=""))
        given, own = Origin.of(target), self.transport.origin
        if given.host == own.host and given != own:  # behind a proxy that it does not know of
            base = urlsplit(self.transport.base)
            target = urlunsplit(urlsplit(target)._replace(scheme=base.scheme, netloc=base.netloc))
        elif given != own:
            raise RegistryError(f"the registry wants blobs to be sent to {given.host}:{given.port}")
        return target

    def put_manifest(self, data: bytes, media_type: str, version: str) -> str:
        """Send a manifest, return its digest; raises RegistryError."""
        headers = {"Content-Type": media_type}
        response = self._ask("PUT", f"manifests/{version}", headers, body=data, push=True)
        body = read(response, BIGGEST_ANSWER, "the registry's answer")
        self._expect(response, {OK, CREATED, ACCEPTED}, f"'{self.place}'", body)
        digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
        told = response.headers.get("Docker-Content-Digest", digest)
        if told != digest:
            raise RegistryError(f"the registry has kept {told[:80]!r}, not {digest}")
        return digest

    # --- requests and their authorisation ---------------------------------------------------------

    def _path(self, rest: str) -> str:
        return f"/v2/{self.place.repository}/{rest}"

    def _ask(
        self,
        method: str,
        rest: str,
        headers: Mapping[str, str],
        *,
        elsewhere: bool = False,
        push: bool = False,
        body: bytes | None = None,
    ) -> BaseHTTPResponse:
        url = self.transport.url(self._path(rest))
        return self._send(method, url, headers, body, elsewhere=elsewhere, push=push)

    def _send(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str],
        body: bytes | IO[bytes] | None = None,
        *,
        elsewhere: bool = False,
        push: bool = True,
    ) -> BaseHTTPResponse:
        """Send a request, with what authorises it; once more if the registry asks for that."""
        scope = f"repository:{self.place.repository}:{'pull,push' if push else 'pull'}"
        for _ in range(2):
            used = self._headers.get(scope, "")
            sent = {**headers, **({"Authorization": used} if used else {})}
            response = self.transport.open(method, url, sent, body=body, elsewhere=elsewhere)
            if response.status != UNAUTHORISED:
                return response
            challenge = response.headers.get("WWW-Authenticate", "")
            response.close()
            with self._lock:
                if self._headers.get(scope, "") == used:
                    self._headers[scope] = self._authorise(challenge, scope)
            if not isinstance(body, bytes | None):
                body.seek(0)
        return response

    def _authorise(self, challenge: str, scope: str) -> str:
        """Return the header that a challenge asks for; raises RegistryError."""
        if self._credentials is None:
            self._credentials = credentials.find(self.place.host, self.place.repository)
        known = self._credentials
        kind, _, rest = challenge.partition(" ")
        if kind.lower() == "basic":
            if not known.basic:
                raise self._denied("it wants a user's name and password")
            return known.basic
        if kind.lower() != "bearer":
            raise self._denied(f"it asks for {kind[:40]!r}, which is not known")
        parameters = {
            (m[1] or m[3]).lower(): m[2] or m[4] or "" for m in _PARAMETER.finditer(rest[:4096])
        }
        if "realm" not in parameters:
            raise self._denied("it does not say where tokens are to be had")
        return "Bearer " + self._token(parameters, scope, known)

    def _token(self, parameters: dict[str, str], scope: str, known: credentials.Credentials) -> str:
        query = {"service": parameters.get("service", ""), "scope": scope}
        realm = parameters["realm"]
        if known.identity:
            form = {**query, "grant_type": "refresh_token", "refresh_token": known.identity}
            headers = {"Content-Type": "application/x-www-form-urlencoded"}
            data = urlencode({**form, "client_id": "apppot"}).encode()
            response = self.transport.open("POST", realm, headers, body=data, realm=True)
        else:
            headers = {"Authorization": known.basic} if known.basic else {}
            url = f"{realm}{'&' if '?' in realm else '?'}{urlencode(query)}"
            response = self.transport.open("GET", url, headers, realm=True)
        data = read(response, BIGGEST_ANSWER, "the registry's token")
        if response.status != OK:
            raise self._denied(f"no token was given ({response.status})")
        found = manifests.document(data, "the registry's token")
        token = found.get("token") or found.get("access_token")
        if not (isinstance(token, str) and token.isascii() and token.isprintable()):
            raise self._denied("the token that was given is none")
        return token

    def _denied(self, why: str) -> RegistryError:
        host = self.place.host
        used = self._credentials
        have = f"; the credentials are from {used.source}" if used and used.source else ""
        return RegistryError(
            f"the registry {host} denies access to '{self.place.repository}': {why}{have}",
            hint=f"check the name; for what is not public: 'podman login {host}' or"
            f" 'docker login {host}'",
            code=UNAUTHORISED,
        )

    def _expect(
        self, response: BaseHTTPResponse, good: set[int], what: str, body: bytes | None = None
    ) -> None:
        """Check a status; raises RegistryError with what the registry says."""
        if response.status in good:
            return
        if body is None:
            try:
                body = read(response, BIGGEST_ANSWER, "the registry's answer")
            except ImageError:
                body = b""
        said = _said(body)
        if response.status in {UNAUTHORISED, FORBIDDEN}:
            raise self._denied(said or str(response.status))
        host = self.place.host
        if response.status == MISSING:
            raise RegistryError(
                f"the registry {host} does not have {what}" + (f": {said}" if said else ""),
                hint="check the name and the tag",
                code=MISSING,
            )
        raise RegistryError(
            f"the registry {host} answers {response.status} for {what}"
            + (f": {said}" if said else ""),
            code=response.status,
        )


def _said(body: bytes) -> str:
    """Return what a registry gives as its reason, printable and short."""
    try:
        found: Any = json.loads(body)
        errors = found["errors"]
        texts = [f"{e.get('message') or e.get('code')}" for e in errors[:3]]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return ""
    return "".join(c if c.isprintable() else "?" for c in ", ".join(texts))[:300]
