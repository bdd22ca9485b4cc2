"""An authority, and certificates for servers and users on loopback, for tests."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from pathlib import Path

PEM = serialization.Encoding.PEM
_USES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
    *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
)


class Authority:
    """Signs certificates; `path` is its own.

    Without `identifiers` they do not say whose key has signed them, as those that `openssl req`
    and small sites' tools have made for years. Python 3.13 demands it.
    """

    def __init__(self, folder: Path, name: str = "authority", *, identifiers: bool = True) -> None:
        self.folder, self.identifiers = folder, identifiers
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self.key = ec.generate_private_key(ec.SECP256R1())
        made = self._made(self.name, self.key.public_key(), days=1)
        made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        if identifiers:
            own = x509.SubjectKeyIdentifier.from_public_key(self.key.public_key())
            made = made.add_extension(own, critical=False)
        uses = dict.fromkeys(_USES, False) | {"key_cert_sign": True}
        made = made.add_extension(x509.KeyUsage(**uses), critical=True)
        self.path = folder / f"{name}.crt"
        self.path.write_bytes(made.sign(self.key, hashes.SHA256()).public_bytes(PEM))

    def _made(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, *, days: int
    ) -> x509.CertificateBuilder:
        now = dt.datetime.now(dt.UTC)
        made = x509.CertificateBuilder()
        if self.identifiers:
            issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
            made = made.add_extension(issuer, critical=False)
        return (
            made.subject_name(subject)
            .issuer_name(self.name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - dt.timedelta(days=7))
            .not_valid_after(now + dt.timedelta(days=days))
        )

    def certify(
        self, name: str, hosts: tuple[str, ...] = ("127.0.0.1", "localhost"), *, days: int = 1
    ) -> tuple[Path, Path]:
        """Return the files of a new certificate and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        names = [
            x509.IPAddress(ipaddress.ip_address(host)) if host[0].isdigit() else x509.DNSName(host)
            for host in hosts
        ]
        made = self._made(subject, key.public_key(), days=days)
        made = made.add_extension(x509.SubjectAlternativeName(names), critical=False)
        certificate, private = self.folder / f"{name}.cert", self.folder / f"{name}.key"
        certificate.write_bytes(made.sign(self.key, hashes.SHA256()).public_bytes(PEM))
        form, none = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        private.write_bytes(key.private_bytes(PEM, form, none))
        return certificate, private

    def server(self, hosts: tuple[str, ...] = ("127.0.0.1", "localhost"), days: int = 1) -> (
        ssl.SSLContext
    ):  # fmt: skip
        """Return the settings of a server with such a certificate."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*self.certify("server", hosts, days=days))
        return context
