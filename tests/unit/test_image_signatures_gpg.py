"""What GnuPG and skopeo have signed is verified by gpgv, and refused if it cannot be."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from apppot.errors import ImageError
from apppot.image import model, signatures
from tests.unit.demands import DIGEST, NAME, Demand, statement

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def keyring(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return the home of GnuPG with the keys of a site and of a stranger."""
    if not (shutil.which("gpg") and shutil.which("gpgv")):
        pytest.skip("gpg or gpgv is not installed")
    home = tmp_path_factory.mktemp("g")
    home.chmod(0o700)
    for name in ("site@example.org", "stranger@example.org"):
        gpg(home, "--passphrase", "", "--quick-generate-key", name, "ed25519", "sign", "never")
    yield home
    subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False)


def gpg(home: Path, *words: str, data: bytes = b"") -> bytes:
    argv = ["gpg", "--homedir", str(home), "--batch", "--quiet", "--no-tty", *words]
    return subprocess.run(argv, input=data, check=True, capture_output=True).stdout


def put(folder: Path, data: bytes, *, number: int = 1, name: str = "group/tool") -> None:
    where = folder / "signatures" / f"{name}@{DIGEST.replace(':', '=')}"
    where.mkdir(parents=True, exist_ok=True)
    (where / f"signature-{number}").write_bytes(data)


@pytest.mark.parametrize("armor", [(), ("--armor",)])
@pytest.mark.parametrize("name", ["group/tool", "registry.example:5000/group/tool"])
def test_openpgp_signatures(
    armor: tuple[str, ...], name: str, demand: Demand, keyring: Path
) -> None:
    key = demand.folder / "site.key"
    key.write_bytes(gpg(keyring, *armor, "--export", "site@example.org"))
    demand(require="gpg", keys=[str(key)], folder=str(demand.folder / "signatures"))
    with pytest.raises(ImageError, match="there is no signature"):
        signatures.check(NAME, DIGEST, None)

    def signed(payload: bytes, who: str = "site", how: str = "--sign") -> bytes:
        return gpg(keyring, "-u", f"{who}@example.org", how, data=payload)

    good = statement(signatures.GPG)
    for data, reason in {
        signed(good, "stranger"): "not a good signature",
        signed(good)[:-9] + b"xxxxxxxxx": "not a good signature",
        good: "not a good signature",
        b"": "not a good signature",
        signed(good, how="--detach-sign"): "not a good signature",
        signed(statement(signatures.GPG, digest="sha256:" + "0" * 64)): "is about",
        signed(statement()): "another type",
        signed(b"5"): "form",
        signed(
            statement(signatures.GPG, name="registry.example:5000/group/other:1")
        ): "for the name",
        signed(
            statement(signatures.GPG, name="registry.example:5000/group/tool:2")
        ): "for the name",
    }.items():
        put(demand.folder, data, name=name)
        with pytest.raises(ImageError, match=reason):
            signatures.check(NAME, DIGEST, None)
    put(demand.folder, signed(good), number=2, name=name)
    signatures.check(NAME, DIGEST, None)
    with pytest.raises(ImageError, match="there is no signature"):
        signatures.check(NAME.replace("tool", "tools"), DIGEST, None)


def test_openpgp_needs_its_program_and_folder(
    demand: Demand, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = demand.folder / "key"
    key.write_bytes(b"x")
    demand(require="gpg", keys=[str(key)])
    with pytest.raises(ImageError, match="says not where they are"):
        signatures.check(NAME, DIGEST, None)
    demand(require="gpg", keys=[str(key)], folder=str(demand.folder))
    monkeypatch.setattr(shutil, "which", lambda *_, **__: None)
    with pytest.raises(Exception, match="'gpgv' is not installed"):
        signatures.check(NAME, DIGEST, None)


def test_an_expired_openpgp_key_is_not_believed(demand: Demand, keyring: Path) -> None:
    home = demand.folder / "h"
    shutil.copytree(keyring, home, ignore=shutil.ignore_patterns("S.*"))
    past = ("--faked-system-time", "20200101T000000!", "--passphrase", "")
    gpg(home, *past, "--quick-generate-key", "old@example.org", "ed25519", "sign", "1d")
    payload = statement(signatures.GPG)
    put(demand.folder, gpg(home, *past, "-u", "old@example.org", "--sign", data=payload))
    key = demand.folder / "old.key"
    key.write_bytes(gpg(home, "--export", "old@example.org"))
    demand(require="gpg", keys=[str(key)], folder=str(demand.folder / "signatures"))
    with pytest.raises(ImageError, match="signature"):
        signatures.check(NAME, DIGEST, None)
    subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False)
    assert os.path.exists(key)


def test_what_skopeo_signs_is_believed(demand: Demand, keyring: Path) -> None:
    if not shutil.which("skopeo"):
        pytest.skip("skopeo is not installed")
    manifest = demand.folder / "manifest.json"
    manifest.write_bytes(b'{"schemaVersion": 2, "mediaType": "%s"}' % model.MANIFEST_TYPE.encode())
    digest = model.digest(manifest.read_bytes())
    found = gpg(keyring, "--with-colons", "--fingerprint", "site@example.org").decode()
    fingerprint = next(w.split(":")[9] for w in found.splitlines() if w.startswith("fpr"))
    words = ["skopeo", "standalone-sign", str(manifest), NAME, fingerprint]
    where = demand.folder / "signatures" / f"group/tool@{digest.replace(':', '=')}"
    where.mkdir(parents=True)
    env = {**os.environ, "GNUPGHOME": str(keyring)}
    subprocess.run([*words, "--output", str(where / "signature-1")], env=env, check=True)
    key = demand.folder / "site.key"
    key.write_bytes(gpg(keyring, "--export", "site@example.org"))
    demand(require="gpg", keys=[str(key)], folder=str(demand.folder / "signatures"))
    signatures.check(NAME, digest, None)
    named_by_digest = NAME.rpartition(":")[0] + "@" + digest
    signatures.check(named_by_digest, digest, None)
    with pytest.raises(ImageError, match="for the name"):
        signatures.check(NAME.replace(":1", ":2"), digest, None)
