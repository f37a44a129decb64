"""Commands that cannot be trusted: each is refused with its reason, a CRITICAL event and a counter."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from esper_core import leyline
from esper_core.clocks import ManualClock, to_duration, to_timestamp
from esper_core.security.keyring import Keyring
from esper_core.security.signing import FreshnessPolicy, MessageSigner
from esper_core.telemetry import Instruments
from kasmina.journal import JournalFolder
from kasmina.telemetry import Telemetry
from kasmina.verifier import CommandVerifier, nonce_ledger
from support.kasmina_life import RUN


class Heard:
    """Keeps what telemetry was told."""

    def __init__(self) -> None:
        self.events: list[tuple[str, int, str, dict[str, object]]] = []

    def event(self, name: str, level: int, description: str, *, run_id: str = "", **attributes: object) -> None:
        self.events.append((name, level, description, attributes))

    def gauge(self, name: str, value: float, *, run_id: str = "", **attributes: object) -> None:
        self.events.append((name, 0, str(value), attributes))


class Desk:
    """A verifier on a data folder, with a clock to turn."""

    def __init__(self, folder: Path, *, capacity: int = 100) -> None:
        self.clock = ManualClock()
        self.keyring = Keyring.generate()
        self.folder = folder
        self.capacity = capacity
        self.heard = Heard()
        self.registry = CollectorRegistry()
        self.telemetry = Telemetry(Instruments(self.registry), self.heard)
        self.open()

    def open(self) -> None:
        """Start anew on the same folder, as after a restart."""
        self.nonces = JournalFolder(self.folder, lambda sentence: None).open_nonces()
        ledger = nonce_ledger(self.nonces, self.capacity, 300.0, self.clock)
        policy = FreshnessPolicy(60.0, 5.0)
        self.verifier = CommandVerifier(self.keyring, ledger, policy, self.telemetry, self.clock, ttl_s=300.0)

    def command(self, **fields: Any) -> leyline.AdaptationCommand:
        return leyline.AdaptationCommand(
            version=1, command_id="c-1", training_run_id=RUN, type=leyline.COMMAND_TYPE_PAUSE, **fields
        )

    def signed(self, window_s: float = 30.0, **fields: Any) -> leyline.AdaptationCommand:
        return MessageSigner(self.keyring, "command", window_s=window_s, clock=self.clock).sign(self.command(**fields))


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def unsigned(desk: Desk) -> leyline.AdaptationCommand:
    return desk.command()


def wrongly_signed(desk: Desk) -> leyline.AdaptationCommand:
    command = desk.signed()
    command.based_on_generation = 7
    return command


def by_a_stranger(desk: Desk) -> leyline.AdaptationCommand:
    return MessageSigner(Keyring.generate("k9"), "command", clock=desk.clock).sign(desk.command())


def without_id(desk: Desk) -> leyline.AdaptationCommand:
    command = desk.command()
    command.command_id = ""
    return MessageSigner(desk.keyring, "command", clock=desk.clock).sign(command)


def signed_by_hand(desk: Desk, change: Callable[[leyline.CommandSecurity], None]) -> leyline.AdaptationCommand:
    from esper_core.security.signing import signed_bytes

    command = desk.signed()
    change(command.security)
    command.security.signature = desk.keyring.sign("command", signed_bytes(command)).hex()
    return command


def without_time(desk: Desk) -> leyline.AdaptationCommand:
    return signed_by_hand(desk, lambda security: security.ClearField("issued_at"))


def from_the_future(desk: Desk) -> leyline.AdaptationCommand:
    later = to_timestamp(desk.clock.wall() + timedelta(seconds=6))
    return signed_by_hand(desk, lambda security: security.issued_at.CopyFrom(later))


def stale(desk: Desk) -> leyline.AdaptationCommand:
    command = desk.signed(window_s=3600.0)
    desk.clock.advance(61)
    return command


def used_before(desk: Desk) -> leyline.AdaptationCommand:
    command = desk.signed()
    assert desk.verifier.verify(command).accepted
    return command


def used_before_a_restart(desk: Desk) -> leyline.AdaptationCommand:
    command = used_before(desk)
    desk.nonces.close()
    desk.open()
    return command


@pytest.mark.req("KAS-26")
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (unsigned, "MISSING_SIGNATURE"),
        (wrongly_signed, "INVALID_SIGNATURE"),
        (by_a_stranger, "UNKNOWN_KEY"),
        (without_id, "MISSING_COMMAND_ID"),
        (without_time, "MISSING_TIMESTAMP"),
        (from_the_future, "ISSUED_IN_FUTURE"),
        (stale, "STALE_COMMAND"),
        (used_before, "NONCE_REPLAYED"),
        (used_before_a_restart, "NONCE_REPLAYED"),
    ],
)
def test_a_bad_command_is_refused_with_its_reason(
    desk: Desk, make: Callable[[Desk], leyline.AdaptationCommand], reason: str
) -> None:
    verification = desk.verifier.verify(make(desk))
    assert not verification.accepted
    assert verification.reason_name == reason


@pytest.mark.req("KAS-26")
def test_a_rejection_is_a_critical_event_a_counter_and_a_latency(desk: Desk) -> None:
    verification = desk.verifier.verify(unsigned(desk))
    desk.telemetry.rejected("c-1", RUN, verification.reason, verification.explanation)
    name, level, _, attributes = desk.heard.events[-1]
    assert (name, level) == ("command_rejected", leyline.TELEMETRY_LEVEL_CRITICAL)
    assert attributes["reason"] == "MISSING_SIGNATURE"
    count = desk.registry.get_sample_value("kasmina_command_verifier_rejected_total", {"reason": "MISSING_SIGNATURE"})
    assert count == 1
    assert desk.registry.get_sample_value("kasmina_command_verifier_latency_ms_count") == 1


def test_the_sender_cannot_widen_the_window(desk: Desk) -> None:
    def widen(security: leyline.CommandSecurity) -> None:
        security.freshness_window.CopyFrom(to_duration(86_400.0))

    command = signed_by_hand(desk, widen)
    desk.clock.advance(59)
    assert desk.verifier.verify(command).accepted
    desk.clock.advance(2)
    other = signed_by_hand(desk, widen)
    desk.clock.advance(61)
    assert desk.verifier.verify(other).reason_name == "STALE_COMMAND"


@pytest.mark.req("KAS-27")
def test_a_full_ledger_refuses_rather_than_forgets_and_recovers_when_nonces_expire(tmp_path: Path) -> None:
    desk = Desk(tmp_path, capacity=2)
    assert desk.verifier.verify(desk.signed()).accepted
    assert desk.verifier.verify(desk.signed()).accepted
    assert desk.verifier.verify(desk.signed()).reason_name == "LEDGER_FULL"
    assert desk.registry.get_sample_value("kasmina_nonce_ledger_refused_full_total") == 1
    desk.clock.advance(120)
    assert desk.verifier.verify(desk.signed()).accepted


@pytest.mark.req("KAS-27")
def test_the_ledger_tells_its_size_its_span_and_its_evictions(desk: Desk) -> None:
    desk.verifier.verify(desk.signed())
    assert desk.registry.get_sample_value("kasmina_nonce_ledger_size") == 1
    assert desk.registry.get_sample_value("kasmina_nonce_ledger_ttl_seconds") == 300
    desk.clock.advance(301)
    desk.verifier.tell_ledger()
    assert desk.registry.get_sample_value("kasmina_nonce_ledger_size") == 0
    assert desk.registry.get_sample_value("kasmina_nonce_ledger_evictions_total") == 1


@pytest.mark.req("KAS-27")
def test_the_nonce_journal_does_not_grow_for_ever(desk: Desk) -> None:
    path = desk.folder / "nonces.journal"
    for _ in range(5):
        desk.verifier.verify(desk.signed())
    full = path.stat().st_size
    desk.clock.advance(301)
    now = desk.clock.wall()
    assert not desk.nonces.compact(lambda record: record.expires_at > now), "not before there is enough to drop"
    assert desk.nonces.compact(lambda record: record.expires_at > now, after=5)
    assert path.stat().st_size < full
