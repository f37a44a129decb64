"""Sealing an envelope and checking one: contract, signature, times, digest. Producer, Oona and consumer share this."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Mapping
from typing import Final

from google.protobuf.message import Message
from opentelemetry import propagate

from esper_core import leyline
from esper_core.bus.routing import Priority, payload_class
from esper_core.clocks import SYSTEM_CLOCK, Clock, from_timestamp, to_timestamp
from esper_core.contract import LEYLINE_VERSION, validate
from esper_core.errors import (
    CommandRejectedError,
    ContractError,
    DependencyViolationError,
    IntegrityError,
    ValidationError,
)
from esper_core.ids import new_ulid
from esper_core.security import FreshnessPolicy, Keyring, MessageSigner, MessageVerifier

MAX_PAYLOAD_BYTES: Final = 256 * 1024
MAX_ATTRIBUTE_CHARS: Final = 1024
TRACE_ATTRIBUTES: Final = ("traceparent", "tracestate", "baggage")
PUBLISH_FRESHNESS: Final = FreshnessPolicy(max_window_s=60.0, max_future_skew_s=5.0)
"""What Oona allows between sealing and arrival; a producer that had to wait seals again."""


class EnvelopeSealer:
    """Makes and signs the envelopes of one producer.

    Parameters
    ----------
    source : str
        Service that publishes.
    keyring : Keyring
        Signs for the purpose `bus`.
    clock : Clock
        Source of time.
    """

    def __init__(self, source: str, keyring: Keyring, *, clock: Clock = SYSTEM_CLOCK) -> None:
        self._source = source
        self._clock = clock
        self._signer = MessageSigner(keyring, "bus", window_s=PUBLISH_FRESHNESS.max_window_s, clock=clock)

    def compose(
        self, message_type: int, payload: Message, priority: int, *, run_id: str = "", message_id: str = ""
    ) -> leyline.BusEnvelope:
        """Build an envelope without signature around a payload.

        Raises
        ------
        ContractError
            If type or priority is UNSPECIFIED, or the payload breaks its contract.
        ValidationError
            If the payload is of another class than the type says, or too large.
        """
        _require_fitting(message_type, payload)
        validate(payload)
        content = payload.SerializeToString(deterministic=True)
        envelope = leyline.BusEnvelope(
            version=LEYLINE_VERSION,
            message_type=leyline.BusMessageType.ValueType(message_type),
            payload=content,
            attributes=_trace_context(),
            priority=Priority(priority),
            message_id=message_id or new_ulid(self._clock),
            source=self._source,
            payload_digest=hashlib.sha256(content).hexdigest(),
            training_run_id=run_id or str(getattr(payload, "training_run_id", "")),
        )
        require_contract(envelope)
        return envelope

    def seal(self, envelope: leyline.BusEnvelope) -> leyline.BusEnvelope:
        """Stamp and sign an envelope in place, now; sealing again renews both and keeps the message id."""
        envelope.published_at.CopyFrom(to_timestamp(self._clock.wall()))
        return self._signer.sign(envelope)


class EnvelopeVerifier:
    """Checks envelopes: contract first, then signature and times, then the digest of the payload.

    Parameters
    ----------
    keyring : Keyring
        Keys that verify.
    max_age_s : float or None
        None at the entrance, where the window of `PUBLISH_FRESHNESS` holds. On delivery the longest time that a message
        may have waited for its consumer.
    clock : Clock
        Source of time.
    """

    def __init__(self, keyring: Keyring, *, max_age_s: float | None = None, clock: Clock = SYSTEM_CLOCK) -> None:
        freshness = PUBLISH_FRESHNESS if max_age_s is None else None
        self._verifier = MessageVerifier(keyring, "bus", ledger=None, freshness=freshness, clock=clock)
        self._max_age_s = max_age_s
        self._clock = clock

    def verify(self, envelope: leyline.BusEnvelope) -> None:
        """Check an envelope.

        Raises
        ------
        ContractError, ValidationError, DependencyViolationError
            If a field is wrong or missing.
        CommandRejectedError
            If the signature or the times do not hold.
        IntegrityError
            If the payload does not match its digest.
        """
        require_contract(envelope)
        self._verifier.verify(envelope).raise_if_rejected()
        if self._max_age_s is not None:
            self._require_age(envelope, self._max_age_s)
        require_digest(envelope)

    def _require_age(self, envelope: leyline.BusEnvelope, max_age_s: float) -> None:
        age_s = (self._clock.wall() - from_timestamp(envelope.security.issued_at)).total_seconds()
        if age_s < -PUBLISH_FRESHNESS.max_future_skew_s:
            reason, text = leyline.REJECT_REASON_ISSUED_IN_FUTURE, f"The message comes from {-age_s:.1f} s ahead."
        elif age_s > max_age_s:
            reason, text = leyline.REJECT_REASON_STALE_COMMAND, f"The message is {age_s:.0f} s old."
        else:
            return
        name = leyline.RejectReason.Name(reason).removeprefix("REJECT_REASON_")
        raise CommandRejectedError(text, reason=reason, reason_name=name)


def open_payload(envelope: leyline.BusEnvelope) -> Message:
    """Parse the payload of a verified envelope.

    Raises
    ------
    ContractError
        If it is not a message of the type that the envelope names.
    """
    message = payload_class(envelope.message_type)()
    try:
        message.ParseFromString(envelope.payload)
    except Exception as error:
        # protobuf's DecodeError differs between its implementations; whatever it is, the payload is not what it claims.
        raise ContractError("The payload cannot be parsed as its message type.", field="payload") from error
    validate(message)
    return message


def require_contract(envelope: leyline.BusEnvelope) -> None:
    """Check version, enums, ids, attributes and size of an envelope, without its security."""
    validate(envelope)
    for field in ("message_id", "source"):
        if not getattr(envelope, field):
            raise DependencyViolationError(f"{field} of the envelope is missing.", dependency=field)
    if len(envelope.payload) > MAX_PAYLOAD_BYTES:
        raise ValidationError(
            f"The payload has {len(envelope.payload)} bytes; send a digest and a reference instead.",
            field="payload",
            allowed=f"at most {MAX_PAYLOAD_BYTES} bytes",
        )
    _require_trace_only(envelope.attributes)


def require_digest(envelope: leyline.BusEnvelope) -> None:
    """Check the payload against its digest.

    Raises
    ------
    IntegrityError
        If they do not match.
    """
    actual = hashlib.sha256(envelope.payload).hexdigest()
    if not hmac.compare_digest(actual.encode(), envelope.payload_digest.encode()):
        raise IntegrityError("The payload does not match its digest.", details={"message_id": envelope.message_id})


def _require_fitting(message_type: int, payload: Message) -> None:
    expected = payload_class(message_type)
    if not isinstance(payload, expected):
        raise ValidationError(
            f"The payload is a {payload.DESCRIPTOR.name}; this message type carries {expected.DESCRIPTOR.name}.",
            field="payload",
            allowed=expected.DESCRIPTOR.name,
        )


def _require_trace_only(attributes: Mapping[str, str]) -> None:
    for name, value in attributes.items():
        if name not in TRACE_ATTRIBUTES or len(value) > MAX_ATTRIBUTE_CHARS:
            raise ValidationError(
                f"Attribute {name[:64]!r} has no place in an envelope.", field="attributes", allowed=TRACE_ATTRIBUTES
            )


def _trace_context() -> dict[str, str]:
    carrier: dict[str, str] = {}
    propagate.inject(carrier)
    return {name: value for name, value in carrier.items() if name in TRACE_ATTRIBUTES}
