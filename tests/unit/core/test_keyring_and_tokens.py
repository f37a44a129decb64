"""Keys stay inside the keyring, rotate without a gap, and make tokens that nobody else can make."""

from __future__ import annotations

import base64
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from esper_core.clocks import ManualClock
from esper_core.errors import ConfigurationError, StorageError, UnauthenticatedError, ValidationError
from esper_core.security import PURPOSES, Keyring, TokenSource, mint_token, verify_token

KEY = base64.b64encode(b"k" * 32).decode()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


def test_a_keyring_survives_its_file(tmp_path: Path) -> None:
    path = tmp_path / "keyring.json"
    keyring = Keyring.generate("k1").rotated("k2")
    keyring.save(path)
    assert path.stat().st_mode & 0o777 == 0o600
    assert Keyring.load(path) == keyring
    assert sorted(json.loads(path.read_text())) == ["current", "keys"]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ([], "exactly"),
        ({"current": "a"}, "exactly"),
        ({"current": "a", "keys": []}, "map key ids"),
        ({"current": "a", "keys": {}}, "names no key"),
        ({"current": "a", "keys": {"a": "%%%"}}, "not base64"),
        ({"current": "a", "keys": {"a": 7}}, "not base64"),
        ({"current": "a", "keys": {"a": base64.b64encode(b"short").decode()}}, "must be 32 bytes"),
    ],
)
def test_a_bad_keyring_is_told(tmp_path: Path, content: object, problem: str) -> None:
    path = tmp_path / "keyring.json"
    path.write_text(json.dumps(content))
    path.chmod(0o600)
    with pytest.raises(ConfigurationError, match=problem):
        Keyring.load(path)


def test_a_keyring_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "keyring.json"
    path.write_text(json.dumps({"current": "a", "keys": {"a": KEY}}))
    path.chmod(0o640)
    with pytest.raises(ConfigurationError, match="chmod 600"):
        Keyring.load(path)
    with pytest.raises(StorageError):
        Keyring.load(tmp_path / "none")


def test_keys_do_not_leak_into_texts() -> None:
    keyring = Keyring("a", {"a": b"k" * 32})
    assert "kkkk" not in repr(keyring) and "kkkk" not in str(keyring)


@given(st.binary(max_size=64), st.binary(max_size=64))
def test_signatures_hold_for_their_data_purpose_and_key_only(data: bytes, other: bytes) -> None:
    keyring = Keyring("a", {"a": b"a" * 32, "b": b"b" * 32})
    signature = keyring.sign("command", data)
    assert keyring.verify("command", "a", data, signature)
    assert not keyring.verify("command", "b", data, signature)
    assert not keyring.verify("command", "missing", data, signature)
    assert all(not keyring.verify(purpose, "a", data, signature) for purpose in PURPOSES if purpose != "command")
    assert (data == other) == keyring.verify("command", "a", other, signature)


def test_rotation_has_no_gap() -> None:
    old = Keyring.generate("k1")
    both = old.rotated("k2")
    assert both.verify("bus", "k1", b"x", old.sign("bus", b"x"))
    assert both.current_id == "k2"
    new = both.without("k1")
    assert not new.verify("bus", "k1", b"x", old.sign("bus", b"x"))
    with pytest.raises(ConfigurationError):
        new.without("k2")
    with pytest.raises(ConfigurationError):
        new.rotated("k2")


def test_a_token_says_who_and_until_when(clock: ManualClock) -> None:
    keyring = Keyring.generate()
    claims = verify_token(keyring, mint_token(keyring, "tamiyo", "service", ttl_s=60, clock=clock), clock=clock)
    assert (claims.subject, claims.role, claims.key_id) == ("tamiyo", "service", "k1")
    assert claims.expires_at_s - claims.issued_at_s == 60


def test_tokens_expire_and_do_not_come_from_the_future(clock: ManualClock) -> None:
    keyring = Keyring.generate()
    token = mint_token(keyring, "tamiyo", "service", ttl_s=60, clock=clock)
    clock.advance(60 + 30)
    with pytest.raises(UnauthenticatedError, match="expired"):
        verify_token(keyring, token, clock=clock)
    clock.shift_wall(-300)
    with pytest.raises(UnauthenticatedError, match="future"):
        verify_token(keyring, token, clock=clock)


def test_forged_tokens_are_refused(clock: ManualClock) -> None:
    keyring, stranger = Keyring.generate(), Keyring.generate()
    good = mint_token(keyring, "me", "viewer", clock=clock)
    scheme, payload, signature = good.split(".")
    claims = json.loads(base64.urlsafe_b64decode(payload + "=="))
    raised = base64.urlsafe_b64encode(json.dumps({**claims, "role": "operator"}).encode()).rstrip(b"=").decode()
    rogue = base64.urlsafe_b64encode(json.dumps({**claims, "role": "root"}).encode()).rstrip(b"=").decode()
    forged = [
        mint_token(stranger, "me", "operator", clock=clock),
        f"{scheme}.{raised}.{signature}",
        f"{scheme}.{rogue}.{signature}",
        f"esper2.{payload}.{signature}",
        f"{scheme}.{payload}.",
        f"{scheme}.{payload}.!!!",
        f"{scheme}..{signature}",
        "",
        "....",
        f"{good}.x",
    ]
    for token in forged:
        with pytest.raises(UnauthenticatedError):
            verify_token(keyring, token, clock=clock)


@given(st.text(max_size=60))
def test_no_text_passes_as_a_token(text: str) -> None:
    with pytest.raises(UnauthenticatedError) as caught:
        verify_token(Keyring.generate(), text)
    assert len(text) < 8 or text not in str(caught.value)


def test_roles_and_subjects_are_checked() -> None:
    keyring = Keyring.generate()
    with pytest.raises(ValidationError, match="service, operator, viewer"):
        mint_token(keyring, "me", "root")  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="subject"):
        mint_token(keyring, "", "viewer")


def test_a_service_renews_its_token_before_it_expires(clock: ManualClock) -> None:
    keyring = Keyring.generate()
    source = TokenSource(keyring, "oona", ttl_s=90, clock=clock)
    first = source.token()
    clock.advance(59)
    assert source.token() == first
    clock.advance(1)
    assert source.token() != first
    assert verify_token(keyring, source.authorization().removeprefix("Bearer "), clock=clock).role == "service"
