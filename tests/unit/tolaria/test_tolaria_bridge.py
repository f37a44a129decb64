"""What a run tells the orchestrator of its host: at once, signed, past every cap, and without ever ending for it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from esper_core import leyline
from esper_core.bridge import BridgeReader, DeadlineNotice, Record, segments
from esper_core.bus import InMemoryBus
from esper_core.errors import SettingsError
from esper_core.security import Keyring, MessageVerifier
from esper_core.telemetry import TelemetryEmitter
from support.tolaria_runs import SmallRun, small_run
from support.waiting import await_until
from tolaria.mediator.oona import OonaPart
from tolaria.safety.bridge import SignalMaker
from tolaria.safety.deadlines import announced_deadline
from tolaria.settings import WorkerSettings
from tolaria.training.orders import Order
from tolaria.worker.wiring import open_bridge

pytestmark = pytest.mark.req("WEA-3")


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    made = Keyring.generate()
    made.save(tmp_path / "keyring.json")
    return made


@pytest.fixture
def run(tmp_path: Path, keyring: Keyring) -> Iterator[SmallRun]:
    made = small_run(
        tmp_path / "run",
        bridge_dir=tmp_path / "bridge",
        keyring_file=tmp_path / "keyring.json",
        emergency_signals_per_minute=1,
    )
    yield made
    made.events.close()


def crossed(tmp_path: Path) -> list[Record]:
    (segment,) = segments(tmp_path / "bridge")
    reader = BridgeReader(segment)
    records = [record for _, record in reader.take().records]
    reader.close()
    return records


def emergencies(tmp_path: Path) -> list[leyline.EmergencySignal]:
    return [record for record in crossed(tmp_path) if isinstance(record, leyline.EmergencySignal)]


def test_what_the_run_raises_crosses_at_once_signed_and_past_the_cap(
    run: SmallRun, tmp_path: Path, keyring: Keyring
) -> None:
    for number in range(3):
        run.parts.fence.halt_for_emergency(f"trouble {number}")
    found = emergencies(tmp_path)
    assert [signal.reason for signal in found if signal.level == leyline.EMERGENCY_LEVEL_HALT] == [
        "trouble 0",
        "trouble 1",
        "trouble 2",
    ]
    verifier = MessageVerifier(keyring, "emergency", ledger=None)
    assert all(verifier.verify(signal).accepted for signal in found)
    assert {signal.training_run_id for signal in found} == {run.session.plan.run_id}
    assert len({signal.signal_id for signal in found}) == len(found)


def test_what_came_from_elsewhere_is_not_sent_back(run: SmallRun, tmp_path: Path) -> None:
    order = Order("o1", leyline.ORDER_KIND_EMERGENCY, "smoke", level=4, signal_id="s1", origin="weatherlight")
    run.links.inbox.post(order)
    run.parts.fence.cross()
    assert emergencies(tmp_path) == []


def test_a_storm_of_signals_from_elsewhere_is_an_emergency_of_our_own(run: SmallRun, tmp_path: Path) -> None:
    for number in range(2):
        run.links.inbox.post(Order(f"o{number}", leyline.ORDER_KIND_EMERGENCY, "x", level=1, signal_id=f"s{number}"))
    run.parts.fence.cross()
    (storm,) = emergencies(tmp_path)
    assert storm.origin == "tolaria-worker" and storm.level == leyline.EMERGENCY_LEVEL_ELEVATED


def test_a_deadline_crosses_under_the_number_that_tolaria_knows(run: SmallRun, tmp_path: Path) -> None:
    with run.parts.recovery._rollback._announced(1000.0):
        known = announced_deadline(run.folder)
        assert known is not None
        *_, last = crossed(tmp_path)
        assert last == DeadlineNotice(True, known.at_monotonic_s, known.number)
    *_, last = crossed(tmp_path)
    assert isinstance(last, DeadlineNotice) and not last.running


def test_a_bridge_that_cannot_be_built_ends_no_run(tmp_path: Path, keyring: Keyring) -> None:
    (tmp_path / "bridge").write_text("a file where the folder should be")
    made = small_run(tmp_path / "run", bridge_dir=tmp_path / "bridge", keyring_file=tmp_path / "keyring.json")
    made.parts.fence.halt_for_emergency("trouble")
    assert made.parts.fence.cross() is not None
    made.events.close()


def test_a_bridge_without_keys_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="ESPER_KEYRING_FILE"):
        open_bridge(WorkerSettings(bridge_dir=tmp_path), "run")
    assert open_bridge(WorkerSettings(), "run") is None


async def test_the_same_signal_goes_over_the_bus_as_well(run: SmallRun, tmp_path: Path, keyring: Keyring) -> None:
    bus = InMemoryBus("tolaria", keyring)
    maker = SignalMaker(keyring, run.session.plan.run_id)
    part = OonaPart(bus, run.events, TelemetryEmitter("tolaria", bus.publish_telemetry), maker)
    working = asyncio.create_task(part.run())
    run.parts.fence.halt_for_emergency("trouble")
    envelopes = await await_until(lambda: bus.broker.messages("emergency"), 5.0)
    (over_the_bus,) = [leyline.EmergencySignal.FromString(envelope.payload) for envelope in envelopes]
    (over_the_bridge,) = emergencies(tmp_path)
    assert over_the_bus.signal_id == over_the_bridge.signal_id
    assert (over_the_bus.level, over_the_bus.reason) == (leyline.EMERGENCY_LEVEL_HALT, "trouble")
    working.cancel()
    await asyncio.gather(working, return_exceptions=True)
    await bus.close()
