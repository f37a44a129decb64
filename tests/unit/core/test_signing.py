"""A signed message is accepted once, in time, unchanged; everything else is rejected with its reason."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from hypothesis import given
from hypothesis import strategies as st

from esper_core import leyline
from esper_core.clocks import ManualClock, to_duration
from esper_core.errors import CommandRejectedError
from esper_core.security import FreshnessPolicy, Keyring, MessageSigner, MessageVerifier, NonceLedger, signed_bytes

pytestmark = pytest.mark.req("LEY-4")

KEYRING = Keyring("a", {"a": b"a" * 32, "b": b"b" * 32})


class Bench:
    """A signer and a verifier that share a clock."""

    def __init__(self, capacity: int = 100) -> None:
        self.clock = ManualClock()
        self.ledger = NonceLedger(capacity=capacity, clock=self.clock)
        self.signer = MessageSigner(KEYRING, "command", window_s=30, clock=self.clock)
        self.verifier = MessageVerifier(
            KEYRING, "command", ledger=self.ledger, freshness=FreshnessPolicy(60, 5), clock=self.clock
        )

    def command(self) -> leyline.AdaptationCommand:
        command = leyline.AdaptationCommand(version=1, command_id="c", type=leyline.COMMAND_TYPE_SEED)
        command.seed_operation.operation = leyline.SEED_OPERATION_CULL
        return self.signer.sign(command)

    def reason(self, command: leyline.AdaptationCommand) -> int:
        verification = self.verifier.verify(command)
        assert verification.accepted == (verification.reason == 0)
        return verification.reason


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_good_command_is_accepted_and_unchanged(bench: Bench) -> None:
    command = bench.command()
    before = command.SerializeToString(deterministic=True)
    verification = bench.verifier.verify(command)
    assert verification.accepted and verification.key_id == "a"
    assert command.SerializeToString(deterministic=True) == before
    assert len(command.security.signature) == 64 and command.security.signature.islower()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda c: c.ClearField("security"), leyline.REJECT_REASON_MISSING_SIGNATURE),
        (lambda c: c.security.ClearField("signature"), leyline.REJECT_REASON_MISSING_SIGNATURE),
        (lambda c: c.ClearField("command_id"), leyline.REJECT_REASON_MISSING_COMMAND_ID),
        (lambda c: setattr(c.security, "key_id", "z"), leyline.REJECT_REASON_UNKNOWN_KEY),
        (lambda c: setattr(c.security, "key_id", "b"), leyline.REJECT_REASON_INVALID_SIGNATURE),
        (lambda c: setattr(c.security, "signature", "zz"), leyline.REJECT_REASON_INVALID_SIGNATURE),
        (lambda c: setattr(c.security, "signature", "AB" * 32), leyline.REJECT_REASON_INVALID_SIGNATURE),
        (lambda c: setattr(c.security, "nonce", "n" * 32), leyline.REJECT_REASON_INVALID_SIGNATURE),
        (lambda c: c.security.freshness_window.FromSeconds(9999), leyline.REJECT_REASON_INVALID_SIGNATURE),
        (lambda c: setattr(c, "based_on_generation", 7), leyline.REJECT_REASON_INVALID_SIGNATURE),
        (lambda c: setattr(c.seed_operation, "operation", 3), leyline.REJECT_REASON_INVALID_SIGNATURE),
        (lambda c: c.MergeFromString(b"\xf8\xff\x03\x01"), leyline.REJECT_REASON_INVALID_SIGNATURE),
    ],
)  # fmt: skip
def test_every_change_is_noticed(
    bench: Bench, change: Callable[[leyline.AdaptationCommand], object], reason: int
) -> None:
    command = bench.command()
    change(command)
    assert bench.reason(command) == reason
    assert bench.ledger.stats().size == 0


@given(st.integers(0, 10_000), st.integers(1, 255))
def test_no_flipped_byte_is_accepted(place: int, mask: int) -> None:
    bench = Bench()
    data = bytearray(bench.command().SerializeToString())
    data[place % len(data)] ^= mask
    try:
        damaged = leyline.AdaptationCommand.FromString(bytes(data))
    except Exception:
        return
    assert bench.reason(damaged) != 0


def test_a_replay_is_rejected(bench: Bench) -> None:
    command = bench.command()
    assert bench.reason(command) == 0
    assert bench.reason(command) == leyline.REJECT_REASON_NONCE_REPLAYED


def test_times_are_the_receivers_to_judge(bench: Bench) -> None:
    stale, future = bench.command(), bench.command()
    bench.clock.advance(30.5)
    assert bench.reason(stale) == leyline.REJECT_REASON_STALE_COMMAND
    bench.clock.shift_wall(-40)
    assert bench.reason(future) == leyline.REJECT_REASON_ISSUED_IN_FUTURE


def test_the_sender_cannot_widen_the_window(bench: Bench) -> None:
    generous = MessageSigner(KEYRING, "command", window_s=86400, clock=bench.clock).sign(
        leyline.AdaptationCommand(version=1, command_id="c")
    )
    bench.clock.advance(61)
    assert bench.reason(generous) == leyline.REJECT_REASON_STALE_COMMAND


def resign(command: leyline.AdaptationCommand) -> leyline.AdaptationCommand:
    command.security.signature = KEYRING.sign("command", signed_bytes(command), command.security.key_id).hex()
    return command


def test_a_signed_command_without_a_usable_time_or_nonce_is_rejected(bench: Bench) -> None:
    command = bench.command()
    command.security.ClearField("issued_at")
    assert bench.reason(resign(command)) == leyline.REJECT_REASON_MISSING_TIMESTAMP
    command.security.issued_at.CopyFrom(Timestamp(seconds=10**17))
    assert bench.reason(resign(command)) == leyline.REJECT_REASON_MISSING_TIMESTAMP
    short = bench.command()
    short.security.nonce = "n"
    assert bench.reason(resign(short)) == leyline.REJECT_REASON_VALIDATION_FAILED
    negative = bench.command()
    negative.security.freshness_window.CopyFrom(to_duration(-5))
    bench.clock.advance(1)
    assert bench.reason(resign(negative)) == leyline.REJECT_REASON_STALE_COMMAND


def test_a_nonce_is_remembered_as_long_as_its_command_could_pass(bench: Bench) -> None:
    command = bench.command()
    assert bench.reason(command) == 0
    for _ in range(80):
        bench.clock.advance(0.5)
        assert bench.reason(command) in (leyline.REJECT_REASON_NONCE_REPLAYED, leyline.REJECT_REASON_STALE_COMMAND)
    bench.clock.advance(60)
    assert bench.ledger.maintain() == 1


def test_a_full_ledger_refuses_instead_of_forgetting() -> None:
    bench = Bench(capacity=2)
    first, second, third = (bench.command() for _ in range(3))
    assert [bench.reason(command) for command in (first, second)] == [0, 0]
    assert bench.reason(third) == leyline.REJECT_REASON_LEDGER_FULL
    assert bench.reason(first) == leyline.REJECT_REASON_NONCE_REPLAYED
    bench.clock.advance(60)
    assert bench.reason(bench.command()) == 0


def test_during_rotation_both_keys_are_valid(bench: Bench) -> None:
    old = bench.command()
    rotated = Keyring("b", {"a": b"a" * 32, "b": b"b" * 32})
    new = MessageSigner(rotated, "command", clock=bench.clock).sign(
        leyline.AdaptationCommand(version=1, command_id="c")
    )
    assert [bench.reason(old), bench.reason(new)] == [0, 0]


def test_records_can_be_verified_again_and_again() -> None:
    clock = ManualClock()
    sheet = MessageSigner(KEYRING, "bsds", clock=clock).sign(leyline.Bsds(version=1))
    verifier = MessageVerifier(KEYRING, "bsds", ledger=None, freshness=None, clock=clock)
    clock.advance(10**6)
    assert verifier.verify(sheet).accepted and verifier.verify(sheet).accepted
    assert not MessageVerifier(KEYRING, "bus", ledger=None, freshness=None, clock=clock).verify(sheet).accepted


def test_envelopes_with_attribute_maps_sign_the_same_in_any_order() -> None:
    first = leyline.BusEnvelope(attributes={"a": "1", "b": "2"})
    second = leyline.BusEnvelope(attributes={"b": "2", "a": "1"})
    assert signed_bytes(first) == signed_bytes(second)


def test_a_rejection_becomes_an_error(bench: Bench) -> None:
    bench.verifier.verify(bench.command()).raise_if_rejected()
    with pytest.raises(CommandRejectedError) as caught:
        bench.verifier.verify(leyline.AdaptationCommand()).raise_if_rejected()
    assert caught.value.reason == leyline.REJECT_REASON_MISSING_SIGNATURE
    assert caught.value.reason_name == "MISSING_SIGNATURE"


def test_a_message_that_cannot_be_signed_is_a_programming_error(bench: Bench) -> None:
    with pytest.raises(TypeError, match="carries no CommandSecurity"):
        bench.signer.sign(leyline.SeedState())
