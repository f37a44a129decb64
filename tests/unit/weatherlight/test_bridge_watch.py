"""An emergency in a training process reaches the orchestrator by shared memory when nothing else would carry it."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from esper_core import leyline
from esper_core.bridge import segments
from esper_core.bus import InMemoryBus
from esper_core.clocks import SYSTEM_CLOCK, ManualClock, to_timestamp
from esper_core.errors import UnavailableError
from esper_core.ids import new_run_id
from esper_core.security import Keyring, MessageSigner
from esper_core.telemetry import TelemetryEmitter
from support.waiting import await_until, wait_until
from weatherlight.bridge import BridgeWatch
from weatherlight.emergencies import Emergency, EmergencyRouter
from weatherlight.health import HealthBoard
from weatherlight.mode import ModeKeeper
from weatherlight.orchestrator import Orchestrator
from weatherlight.rosters import ConfiguredRoster
from weatherlight.signals import SignalDesk

pytestmark = pytest.mark.req("WEA-3")
WRITER = """
import sys, time
from pathlib import Path
from esper_core import leyline
from esper_core.bridge import BridgeWriter, DeadlineNotice
from esper_core.clocks import SYSTEM_CLOCK, to_timestamp
from esper_core.security import Keyring, MessageSigner
folder, run_id, keyring, says = sys.argv[1:]
writer = BridgeWriter(Path(folder), run_id)
if "deadline" in says:
    writer.deadline(DeadlineNotice(True, time.monotonic(), 7))
if "emergency" in says:
    message = leyline.EmergencySignal(version=1, signal_id="s1", level=leyline.EMERGENCY_LEVEL_HALT, reason="NaN",
                                      origin="tolaria-worker", training_run_id=run_id)
    message.triggered_at.CopyFrom(to_timestamp(SYSTEM_CLOCK.wall()))
    writer.emergency(MessageSigner(Keyring.load(Path(keyring)), "emergency", window_s=3600.0).sign(message))
if "storm" in says:
    number = 0
    while True:
        number += 1
        message = leyline.EmergencySignal(version=1, signal_id=str(number), level=1, reason="x" * (number % 200 + 1),
                                          origin=f"origin {number % 2}", training_run_id=run_id)
        message.triggered_at.CopyFrom(to_timestamp(SYSTEM_CLOCK.wall()))
        writer.emergency(MessageSigner(Keyring.load(Path(keyring)), "emergency", window_s=3600.0).sign(message))
        if number == 1:
            print("said", flush=True)
if "goodbye" in says:
    writer.close()
print("said", flush=True)
sys.stdin.read()
"""


@dataclass
class Halting:
    """Tolaria and Tamiyo as Weatherlight asks them."""

    halted: list[str] = field(default_factory=list)
    away: bool = False

    async def halt_runs(self, emergency: Emergency) -> list[str]:
        if self.away:
            raise UnavailableError("nobody answers")
        self.halted.append(emergency.signal_id)
        return [emergency.training_run_id]

    async def warn_runs(self, emergency: Emergency) -> list[str]:
        return []

    async def clear_runs(self, training_run_id: str, reason: str) -> list[str]:
        return []

    async def set_conservative(self, training_run_id: str, reason: str, *, enabled: bool) -> None:
        return None


class Scene:
    """Weatherlight around a bridge, with a bus that may be away, and training processes of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.keyring_file = folder / "bridge", folder / "keyring.json"
        self.run_id, self.peers, self.modes = new_run_id(), Halting(), ModeKeeper()
        keyring = Keyring.generate()
        keyring.save(self.keyring_file)
        self.bus = InMemoryBus("weatherlight", keyring)
        self.packets: list[leyline.TelemetryPacket] = []
        self.emitter = TelemetryEmitter("weatherlight", self._publish)
        self.processes: list[subprocess.Popen[bytes]] = []
        router = EmergencyRouter(self.peers, lambda each: self.modes.raise_emergency(each.signal_id, each.level, "x"))
        board = HealthBoard({}, ManualClock(), interval_s=1.0, timeout_s=1.0)
        self.orchestrator = Orchestrator(
            ConfiguredRoster({}), board, self.modes, router, SYSTEM_CLOCK, lambda mode, reasons: None
        )
        self.desk = SignalDesk(self.bus, keyring, self.orchestrator, self.emitter, SYSTEM_CLOCK)
        self.orchestrator.raised_here = self.desk.announce
        self.watch = self.watched()

    def watched(self) -> BridgeWatch:
        return BridgeWatch(self.folder, self.desk, self.orchestrator, self.emitter, SYSTEM_CLOCK, interval_s=0.01)

    def worker(self, says: str) -> subprocess.Popen[bytes]:
        """Start a process that says something over the bridge and waits."""
        command = [sys.executable, "-c", WRITER, str(self.folder), self.run_id, str(self.keyring_file), says]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=dict(os.environ))
        self.processes.append(process)
        assert process.stdout is not None and process.stdout.readline() == b"said\n"
        return process

    async def told(self) -> tuple[set[str], dict[str, float]]:
        """Return the names of all events and the latest value of each metric."""
        await self.emitter.flush()
        events = {event.name for packet in self.packets for event in packet.events}
        return events, {point.name: point.value for packet in self.packets for point in packet.metrics}

    async def _publish(self, packet: leyline.TelemetryPacket) -> None:
        self.packets.append(packet)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    for process in made.processes:
        process.kill()
        process.communicate(timeout=10.0)


@pytest.fixture
async def watching(scene: Scene) -> AsyncIterator[Scene]:
    task = asyncio.create_task(scene.watch.run())
    yield scene
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_a_halt_arrives_while_the_bus_is_away_and_its_copy_on_the_bus_is_a_duplicate(watching: Scene) -> None:
    watching.bus.broker.go_away()
    watching.worker("emergency")
    await await_until(lambda: watching.peers.halted, 5.0)
    assert watching.modes.mode() == leyline.SYSTEM_MODE_EMERGENCY
    (reader,) = (span.reader for span in watching.watch._spans.values())
    copy = reader._ring.since(0).payloads[0]
    watching.bus.broker.come_back()
    await watching.desk.act(leyline.EmergencySignal.FromString(copy[1:]))
    assert watching.peers.halted == ["s1"]
    _, metrics = await watching.told()
    assert metrics["weatherlight.emergency.routed_total"] == 1.0
    assert metrics["weatherlight.emergency.duplicates_total"] == 1.0
    assert metrics["weatherlight.bridge.records_total"] == 1.0


async def test_what_a_killed_process_said_last_is_heard_and_its_segment_is_cleaned_and_told(scene: Scene) -> None:
    worker = scene.worker("emergency")
    worker.kill()
    worker.wait(10.0)
    scene.watch.look()
    await await_until(lambda: scene.peers.halted, 5.0)
    await await_until(lambda: not next(iter(scene.watch._spans.values())).busy, 5.0)
    scene.watch.look()
    assert list(scene.folder.iterdir()) == []
    events, metrics = await scene.told()
    assert "bridge_writer_died" in events and metrics["weatherlight.bridge.dead_writers_total"] == 1.0


async def test_a_writer_that_is_killed_in_a_storm_leaves_no_torn_signal_and_nothing_is_lost_in_silence(
    scene: Scene,
) -> None:
    worker = scene.worker("storm")
    scene.watch.look()
    await await_until(lambda: next(iter(scene.watch._spans.values())).reader.waiting, 5.0)
    worker.kill()
    worker.wait(10.0)
    scene.watch.look()
    (span,) = scene.watch._spans.values()
    await await_until(lambda: not span.busy, 10.0)
    events, metrics = await scene.told()
    read, lost = (metrics.get(f"weatherlight.bridge.{name}_total", 0.0) for name in ("records", "lost"))
    assert "emergency_unrouted" not in events and ("bridge_overrun" in events) == (lost > 0)
    assert read + lost == span._head
    await scene.watch.close()


@pytest.mark.req("WEA-2")
async def test_signals_are_counted_by_who_raised_them_and_copies_apart(scene: Scene) -> None:
    signer = MessageSigner(Keyring.load(scene.keyring_file), "emergency")
    for signal_id, origin in (("s1", "tolaria-worker"), ("s2", "tamiyo"), ("s3", "tamiyo"), ("s3", "tamiyo")):
        message = leyline.EmergencySignal(version=1, signal_id=signal_id, level=1, reason="x", origin=origin)
        message.triggered_at.CopyFrom(to_timestamp(SYSTEM_CLOCK.wall()))
        await scene.desk.act(signer.sign(message))
    _, metrics = await scene.told()
    counted = {
        point.attributes["source"]: point.value
        for packet in scene.packets
        for point in packet.metrics
        if point.name == "weatherlight.emergency.telemetry_total"
    }
    assert counted == {"tolaria-worker": 1.0, "tamiyo": 3.0}
    assert metrics["weatherlight.emergency.duplicates_total"] == 1.0


async def test_who_says_goodbye_is_cleaned_without_a_word(scene: Scene) -> None:
    scene.worker("goodbye")
    scene.watch.look()
    assert segments(scene.folder) == []
    events, metrics = await scene.told()
    assert "bridge_writer_died" not in events and metrics["weatherlight.bridge.segments"] == 0.0


async def test_a_restarted_orchestrator_acts_on_nothing_twice(scene: Scene) -> None:
    scene.worker("emergency")
    scene.watch.look()
    await await_until(lambda: scene.peers.halted, 5.0)
    await await_until(lambda: not next(iter(scene.watch._spans.values())).busy, 5.0)
    await scene.watch.close()
    again = Scene(scene.folder.parent)
    again.watch.look()
    await asyncio.sleep(0)
    assert again.peers.halted == [] and len(again.watch._spans) == 1
    await again.watch.close()


async def test_nobody_hears_of_a_signal_that_another_key_signed(scene: Scene) -> None:
    Keyring.generate().save(scene.keyring_file)
    scene.worker("emergency")
    scene.watch.look()
    await await_until(lambda: not next(iter(scene.watch._spans.values())).busy, 5.0)
    assert scene.peers.halted == [] and "emergency_unrouted" in (await scene.told())[0]
    await scene.watch.close()


async def test_a_worker_that_hangs_past_its_deadline_is_an_emergency(
    watching: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("weatherlight.bridge.GRACE_S", 0.05)
    watching.worker("deadline").send_signal(signal.SIGSTOP)
    await await_until(lambda: watching.peers.halted, 5.0)
    assert watching.peers.halted == [f"deadline-{watching.run_id}-7"]
    await await_until(lambda: watching.bus.broker.messages("emergency"), 5.0)


async def test_a_signal_waits_for_those_who_must_act(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("weatherlight.bridge.RETRY_S", 0.01)
    scene.peers.away = True
    scene.worker("emergency")
    scene.watch.look()
    await asyncio.sleep(0)
    assert next(iter(scene.watch._spans.values())).busy
    scene.peers.away = False
    await await_until(lambda: scene.peers.halted, 5.0)
    await scene.watch.close()


async def test_one_damaged_segment_keeps_no_other_from_being_read(scene: Scene) -> None:
    scene.worker("emergency")
    (good,) = segments(scene.folder)
    good.path.with_name(f"0BAD.{good.writer.pid}.{good.writer.started_ticks}.ring").write_bytes(b"no ring")
    scene.watch.look()
    await await_until(lambda: scene.peers.halted, 5.0)
    assert "bridge_unreadable" in (await scene.told())[0]
    scene.processes[0].kill()
    wait_until(lambda: not good.writer.is_alive(), 5.0)
    await await_until(lambda: not next(iter(scene.watch._spans.values())).busy, 5.0)
    scene.watch.look()
    assert list(scene.folder.iterdir()) == []
