"""Signing and verifying any message that carries a `security` field of type CommandSecurity.

The signature is HMAC-SHA256, in lower-case hex, over the deterministic serialisation of the whole message with
`security.signature` empty; so nonce, times and key id are covered too.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import timedelta
from typing import TypeAlias, TypeVar, cast

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from esper_core import leyline
from esper_core.clocks import SYSTEM_CLOCK, Clock, from_duration, from_timestamp, to_duration, to_timestamp
from esper_core.errors import CommandRejectedError
from esper_core.security.keyring import Keyring, Purpose
from esper_core.security.nonce import NonceLedger

M = TypeVar("M", bound=Message)
Reason: TypeAlias = leyline.RejectReason.ValueType


@dataclass(frozen=True, slots=True)
class Verification:
    """Outcome of a verification; `reason` is UNSPECIFIED exactly when `accepted`."""

    accepted: bool
    reason: Reason
    explanation: str
    key_id: str = ""

    @property
    def reason_name(self) -> str:
        """Name of the reason without its prefix, for labels."""
        return leyline.RejectReason.Name(self.reason).removeprefix("REJECT_REASON_")

    def raise_if_rejected(self) -> None:
        """Turn a rejection into an error.

        Raises
        ------
        CommandRejectedError
            If the message was not accepted.
        """
        if not self.accepted:
            raise CommandRejectedError(self.explanation, reason=self.reason, reason_name=self.reason_name)


@dataclass(frozen=True, slots=True)
class FreshnessPolicy:
    """What the receiver allows; the sender cannot widen it."""

    max_window_s: float = 60.0
    max_future_skew_s: float = 5.0


class MessageSigner:
    """Signs messages for one purpose with the keyring's current key."""

    def __init__(
        self, keyring: Keyring, purpose: Purpose, *, window_s: float = 30.0, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._keyring = keyring
        self._purpose: Purpose = purpose
        self._window_s = window_s
        self._clock = clock

    def sign(self, message: M) -> M:
        """Fill the message's `security` in place and return the message."""
        security = _security(message)
        security.Clear()
        security.nonce = secrets.token_hex(16)
        security.issued_at.CopyFrom(to_timestamp(self._clock.wall()))
        security.freshness_window.CopyFrom(to_duration(self._window_s))
        security.key_id = self._keyring.current_id
        security.signature = self._keyring.sign(self._purpose, signed_bytes(message)).hex()
        return message


class MessageVerifier:
    """Verifies messages for one purpose: signature first, then times, then the nonce.

    Only a message with a valid signature can touch the ledger, so nobody without a key can fill it.

    Parameters
    ----------
    keyring : Keyring
        Keys that verify.
    purpose : Purpose
        What the messages are for.
    ledger : NonceLedger or None
        Remembers nonces; None where replays are harmless, such as a signed record that is read again and again.
    freshness : FreshnessPolicy or None
        Bounds on age; None for records that stay valid.
    clock : Clock
        Source of time.
    """

    def __init__(
        self,
        keyring: Keyring,
        purpose: Purpose,
        *,
        ledger: NonceLedger | None,
        freshness: FreshnessPolicy | None = FreshnessPolicy(),
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._keyring = keyring
        self._purpose: Purpose = purpose
        self._ledger = ledger
        self._freshness = freshness
        self._clock = clock

    def verify(self, message: Message) -> Verification:
        """Check a message; never raises for a bad one and never changes it."""
        security = _security(message)
        for check in (self._check_presence, self._check_signature, self._check_times, self._check_nonce):
            rejection = check(message, security)
            if rejection is not None:
                return rejection
        return Verification(True, leyline.REJECT_REASON_UNSPECIFIED, "", security.key_id)

    def _check_presence(self, message: Message, security: leyline.CommandSecurity) -> Verification | None:
        if not security.signature:
            return _rejected(leyline.REJECT_REASON_MISSING_SIGNATURE, "The message is not signed.", security)
        if "command_id" in message.DESCRIPTOR.fields_by_name and not getattr(message, "command_id"):  # noqa: B009
            return _rejected(leyline.REJECT_REASON_MISSING_COMMAND_ID, "command_id is missing.", security)
        return None

    def _check_signature(self, message: Message, security: leyline.CommandSecurity) -> Verification | None:
        if security.key_id not in self._keyring.key_ids:
            return _rejected(
                leyline.REJECT_REASON_UNKNOWN_KEY, f"The key {security.key_id[:64]!r} is not in the keyring.", security
            )
        if not self._holds(message, security):
            return _rejected(leyline.REJECT_REASON_INVALID_SIGNATURE, "The signature does not match.", security)
        return None

    def _holds(self, message: Message, security: leyline.CommandSecurity) -> bool:
        try:
            signature = bytes.fromhex(security.signature)
        except ValueError:
            return False
        canonical = signature.hex() == security.signature
        return canonical and self._keyring.verify(self._purpose, security.key_id, signed_bytes(message), signature)

    def _check_times(self, message: Message, security: leyline.CommandSecurity) -> Verification | None:
        if not (security.HasField("issued_at") and _readable(security.issued_at)):
            return _rejected(leyline.REJECT_REASON_MISSING_TIMESTAMP, "issued_at is missing or no time.", security)
        if self._freshness is None:
            return None
        age_s = self._age_s(security)
        if age_s < -self._freshness.max_future_skew_s:
            return _rejected(
                leyline.REJECT_REASON_ISSUED_IN_FUTURE, f"The message comes from {-age_s:.1f} s ahead.", security
            )
        if age_s > self._window_s(security, self._freshness):
            return _rejected(leyline.REJECT_REASON_STALE_COMMAND, f"The message is {age_s:.1f} s old.", security)
        return None

    def _check_nonce(self, message: Message, security: leyline.CommandSecurity) -> Verification | None:
        if self._ledger is None:
            return None
        if not 16 <= len(security.nonce) <= 64:
            return _rejected(leyline.REJECT_REASON_VALIDATION_FAILED, "The nonce must have 16 to 64 letters.", security)
        claim = self._ledger.claim(security.nonce, ttl_s=self._remember_s(security))
        if claim == "replayed":
            return _rejected(leyline.REJECT_REASON_NONCE_REPLAYED, "The nonce was used before.", security)
        if claim == "full":
            return _rejected(leyline.REJECT_REASON_LEDGER_FULL, "The nonce ledger is full; try later.", security)
        return None

    def _remember_s(self, security: leyline.CommandSecurity) -> float | None:
        """Until the message would be refused as stale: its remaining window plus the skew of a clock step."""
        if self._freshness is None:
            return None
        left_s = self._window_s(security, self._freshness) - self._age_s(security)
        return max(left_s, 0.0) + 2 * self._freshness.max_future_skew_s

    def _age_s(self, security: leyline.CommandSecurity) -> float:
        age: timedelta = self._clock.wall() - from_timestamp(security.issued_at)
        return age.total_seconds()

    @staticmethod
    def _window_s(security: leyline.CommandSecurity, freshness: FreshnessPolicy) -> float:
        if not security.HasField("freshness_window"):
            return freshness.max_window_s
        return min(max(from_duration(security.freshness_window), 0.0), freshness.max_window_s)


def signed_bytes(message: Message) -> bytes:
    """Return what a signature covers: the message with `security.signature` empty."""
    copy = type(message)()
    copy.CopyFrom(message)
    _security(copy).signature = ""
    return copy.SerializeToString(deterministic=True)


def _security(message: Message) -> leyline.CommandSecurity:
    field = message.DESCRIPTOR.fields_by_name.get("security")
    if field is None or field.message_type is not leyline.CommandSecurity.DESCRIPTOR:
        raise TypeError(f"{message.DESCRIPTOR.full_name} carries no CommandSecurity")
    return cast("leyline.CommandSecurity", getattr(message, "security"))  # noqa: B009


def _readable(stamp: Timestamp) -> bool:
    """Tell whether a timestamp is a moment of the years 1 to 9999; others fit the message all the same."""
    return -62135596800 <= stamp.seconds <= 253402300799 and 0 <= stamp.nanos < 10**9


def _rejected(reason: Reason, explanation: str, security: leyline.CommandSecurity) -> Verification:
    return Verification(False, reason, explanation, security.key_id)
