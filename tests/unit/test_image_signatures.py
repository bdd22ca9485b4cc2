"""What the configuration demands of signatures is verified, and refused if it cannot be."""

from __future__ import annotations

import base64
import json
import sys
from typing import TYPE_CHECKING, Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from apppot import paths
from apppot.__main__ import main
from apppot.errors import ImageError
from apppot.image import model, signatures
from tests.unit.demands import DIGEST, NAME, Demand, statement

if TYPE_CHECKING:
    from collections.abc import Callable

TAG = "sha256-" + "ab" * 32 + ".sig"


def sign(key: Any, payload: bytes) -> bytes:
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(payload)
    made: bytes = key.sign(payload, ec.ECDSA(hashes.SHA256()))
    return made


def repository(*signed: tuple[bytes, bytes], tag: str = TAG) -> Callable[[str], bytes | None]:
    """Return the fetch function of a repository with these statements and signatures."""
    kept = {model.digest(payload): payload for payload, _ in signed}
    layers = [
        model.Descriptor(
            signatures.PAYLOAD_TYPE,
            model.digest(payload),
            len(payload),
            extra=((signatures.SIGNATURE, base64.b64encode(signature).decode()),),
        ).json()
        for payload, signature in signed
    ]
    empty = model.Descriptor(model.CONFIG_TYPE, "sha256:" + "0" * 64, 2).json()
    kept[tag] = json.dumps({"schemaVersion": 2, "config": empty, "layers": layers}).encode()
    return kept.get


KEYS: dict[str, Callable[[], Any]] = {
    "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
}


@pytest.mark.parametrize("kind", KEYS)
def test_a_good_signature_is_believed(kind: str, demand: Demand) -> None:
    key = KEYS[kind]()
    demand(require="cosign", keys=[demand.key(KEYS["P-256"](), "other.pub"), demand.key(key)])
    payload = statement()
    signatures.check(NAME, DIGEST, repository((b"{}", b"x"), (payload, sign(key, payload))))
    # An image that an index led to: the index is what is signed.
    signatures.check(
        NAME, ("sha256:" + "1" * 64, DIGEST), repository((payload, sign(key, payload)))
    )


KEY = KEYS["P-256"]()
GOOD = statement()
OTHER = statement(digest="sha256:" + "cd" * 32)
REFUSED: dict[str, Any] = {
    "no place for signatures": None,
    "none there": {}.get,
    "list is not JSON": {TAG: b"{"}.get,
    "list is huge": {TAG: b" " * (signatures.BIGGEST + 1)}.get,
    "list is a list": {TAG: b"[]"}.get,
    "list is empty": {TAG: b'{"layers": []}'}.get,
    "layers are a number": {TAG: b'{"layers": 5}'}.get,
    "by another key": repository((GOOD, sign(KEYS["P-256"](), GOOD))),
    "by another kind of key": repository((GOOD, sign(KEYS["Ed25519"](), GOOD))),
    "of another statement": repository((GOOD, sign(KEY, OTHER))),
    "about another image": repository((OTHER, sign(KEY, OTHER))),
    "for another image": repository((GOOD, sign(KEY, GOOD)), tag="sha256-" + "cd" * 32 + ".sig"),
    "of another type": repository(*[(p, sign(KEY, p)) for p in [statement(signatures.GPG)]]),
    "of no statement": repository((b"[]", sign(KEY, b"[]"))),
    "not base64": {
        TAG: repository((GOOD, sign(KEY, GOOD)))(TAG).replace(b'signature": "', b'signature": "*'),  # type: ignore[union-attr]
        model.digest(GOOD): GOOD,
    }.get,
    "another statement at its digest": {
        TAG: repository((GOOD, sign(KEY, GOOD)))(TAG),
        model.digest(GOOD): OTHER,
    }.get,
}


@pytest.mark.parametrize("case", REFUSED)
def test_all_else_is_refused(case: str, demand: Demand) -> None:
    demand(require="cosign", keys=[demand.key(KEY)])
    with pytest.raises(ImageError, match="is refused") as error:
        signatures.check(NAME, DIGEST, REFUSED[case])
    assert NAME in error.value.message


def test_nothing_is_demanded_by_default(demand: Demand) -> None:
    assert signatures.policies() == []
    signatures.check(NAME, DIGEST, None)
    demand(require="cosign", **{"except": ["registry.example:5000/group/*"]})
    signatures.check(NAME, DIGEST, None)
    with pytest.raises(ImageError, match="demands a signature of 'docker"):
        signatures.check("docker.io/library/debian:12", DIGEST, None)


def test_without_keys_or_library_all_is_refused(
    demand: Demand, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetch = repository((GOOD, sign(KEY, GOOD)))
    for require in ("cosign", "gpg"):
        demand(require=require)
        with pytest.raises(ImageError, match="names no key"):
            signatures.check(NAME, DIGEST, fetch)
    demand(require="cosign", keys=["/nonexistent.pub"])
    with pytest.raises(ImageError, match=r"cannot read /nonexistent\.pub"):
        signatures.check(NAME, DIGEST, fetch)
    demand(require="cosign", keys=[str(demand.folder / "config.toml")])
    with pytest.raises(ImageError, match="is not a public key"):
        signatures.check(NAME, DIGEST, fetch)
    demand(require="cosign", keys=[demand.key(rsa.generate_private_key(65537, 2048))])
    with pytest.raises(ImageError, match="only ECDSA and Ed25519"):
        signatures.check(NAME, DIGEST, fetch)
    demand(require="cosign", keys=[demand.key(KEY)])
    monkeypatch.setitem(sys.modules, "cryptography.exceptions", None)
    with pytest.raises(ImageError, match="library") as error:
        signatures.check(NAME, DIGEST, fetch)
    assert "apppot[signatures]" in error.value.hint


@pytest.fixture
def site(demand: Demand, monkeypatch: pytest.MonkeyPatch) -> Demand:
    """Write what the site's own file demands; `demand` writes what APPPOT_CONFIG names."""
    folder = demand.folder / "etc"
    folder.mkdir()
    monkeypatch.setattr(paths, "SITE_CONFIG", str(folder / "config.toml"))
    return Demand(folder)


@pytest.fixture
def user(demand: Demand, monkeypatch: pytest.MonkeyPatch) -> Demand:
    """Write the user's own file."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(demand.folder / "home"))
    (demand.folder / "home/apppot").mkdir(parents=True)
    return Demand(demand.folder / "home/apppot")


ATTEMPTS: dict[str, dict[str, Any]] = {
    "nothing is demanded": {"require": "none"},
    "the image is excepted": {"require": "cosign", "except": ["*"]},
    "all is excepted of the site's": {"except": ["*"]},
    "another key": {"keys": ["OWN"]},
    "another key is demanded": {"require": "cosign", "keys": ["OWN"]},
    "another kind": {"require": "gpg", "except": ["*"]},
    "another folder": {"folder": "/nonexistent"},
}


@pytest.mark.parametrize("attempt", ATTEMPTS)
def test_no_file_undoes_what_the_sites_demands(
    attempt: str, site: Demand, user: Demand, demand: Demand, monkeypatch: pytest.MonkeyPatch
) -> None:
    site(require="cosign", keys=[site.key(KEY)])
    own = KEYS["P-256"]()
    settings = {**ATTEMPTS[attempt]}
    if "keys" in settings:
        settings["keys"] = [user.key(own)]
    signed = repository((GOOD, sign(own, GOOD)))
    for monkey in (user, demand):  # the user's file, and one that the environment names
        monkey(**settings)
        for fetch in (signed, repository(), None):
            with pytest.raises(ImageError, match="is refused") as error:
                signatures.check(NAME, DIGEST, fetch)
            assert f"{paths.SITE_CONFIG} demands" in error.value.hint
            assert "your own configuration cannot undo it" in error.value.hint
    if attempt != "another key is demanded":
        signatures.check(NAME, DIGEST, repository((GOOD, sign(KEY, GOOD))))


def test_a_user_may_demand_more_than_the_site(site: Demand, user: Demand) -> None:
    site(require="cosign", keys=[site.key(KEY)], **{"except": ["registry.example:5000/*"]})
    signatures.check(NAME, DIGEST, None)
    user(require="cosign")  # with the site's keys, and no exceptions
    signatures.check(NAME, DIGEST, repository((GOOD, sign(KEY, GOOD))))
    with pytest.raises(ImageError, match="is refused") as error:
        signatures.check(NAME, DIGEST, None)
    assert str(user.folder) in error.value.hint
    assert "cannot undo" not in error.value.hint
    # Both keys are demanded, of the site and of the user.
    site(require="cosign", keys=[site.key(KEY)])
    own = KEYS["Ed25519"]()
    user(require="cosign", keys=[user.key(own)])
    for one in (KEY, own):
        with pytest.raises(ImageError, match="is refused"):
            signatures.check(NAME, DIGEST, repository((GOOD, sign(one, GOOD))))
    both = repository((GOOD, sign(KEY, GOOD)), (GOOD, sign(own, GOOD)))
    signatures.check(NAME, DIGEST, both)


def test_settings_show_what_each_file_demands(
    site: Demand, user: Demand, capsys: pytest.CaptureFixture[str]
) -> None:
    site(require="cosign", keys=["/site.pub"])
    user(require="none")
    assert main(["config"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "signatures.req" in line]
    assert [line.split("  #")[0] for line in lines] == [
        'signatures.require = "cosign"', 'signatures.require = "none"'
    ]  # fmt: skip
    assert main(["config", "--json", "signatures.require"]) == 0
    shown = json.loads(capsys.readouterr().out)["signatures.require"]
    assert (shown["value"], shown["source"]) == ("cosign", paths.SITE_CONFIG)
    assert [row["value"] for row in shown["also"]] == ["none"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.just(DIGEST),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(("critical", "identity", "image", "type", "layers", "digest", "size")),
            inner,
            max_size=3,
        )
    ),
    max_leaves=8,
)


@given(JSON, JSON)
def test_any_list_and_statement_are_refused(manifest: Any, payload: Any) -> None:
    data = json.dumps(payload).encode()
    listed = json.dumps(manifest).encode()
    assert signatures._signed(listed, DIGEST, [lambda *_: True], lambda _: None)
    assert signatures.statement(data, DIGEST, signatures.COSIGN)[1]
    signed = repository((data, b"x"))
    assert signatures._signed(signed(TAG) or b"", DIGEST, [lambda *_: True], signed)
