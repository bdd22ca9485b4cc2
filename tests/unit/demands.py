"""What tests of signatures share: a configuration that demands them, and statements to sign."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives import serialization

from apppot import config
from apppot.image import signatures

if TYPE_CHECKING:
    from pathlib import Path

NAME = "registry.example:5000/group/tool:1"
DIGEST = "sha256:" + "ab" * 32


class Demand:
    """Write the configuration's part about signatures."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, **settings: Any) -> None:
        lines = [f"signatures.{key} = {json.dumps(value)}" for key, value in settings.items()]
        (self.folder / "config.toml").write_text("\n".join(lines))
        config.forget()

    def key(self, key: Any, name: str = "key.pub") -> str:
        pem = serialization.Encoding.PEM
        form = serialization.PublicFormat.SubjectPublicKeyInfo
        (self.folder / name).write_bytes(key.public_key().public_bytes(pem, form))
        return str(self.folder / name)


def statement(kind: str = signatures.COSIGN, digest: str = DIGEST, name: str = NAME) -> bytes:
    critical = {
        "identity": {"docker-reference": name},
        "image": {"docker-manifest-digest": digest},
        "type": kind,
    }
    return json.dumps({"critical": critical, "optional": None}).encode()
