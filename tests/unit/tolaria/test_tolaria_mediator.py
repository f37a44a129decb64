"""What every part of the mediator gets without asking: a bounded end, retries, and a word to those who watch."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

import pytest

from esper_core import leyline
from esper_core.errors import TimeoutExceededError, UnavailableError
from esper_core.journal import read_journal
from esper_core.telemetry import TelemetryEmitter
from support.tolaria_runs import SmallRun
from support.waiting import wait_until
from tolaria.mediator.peer import ControlPeer, Voices
from tolaria.mediator.thread import Mediator
from tolaria.settings import WorkerSettings

pytestmark = pytest.mark.req("TOL-26")
QUICK = WorkerSettings(peer_failure_limit=3, backoff_initial_s=0.001, backoff_limit_s=0.02)


@dataclass
class Stuck:
    """A part that ends only by being cancelled, and is no quicker when it is asked to finish."""

    name: str = "stuck"
    seen: list[str] = field(default_factory=list)

    async def run(self) -> None:
        self.seen.append("began")
        try:
            await asyncio.Event().wait()
        finally:
            self.seen.append("cancelled")

    async def finish(self) -> None:
        await asyncio.Event().wait()


class Broken(Stuck):
    """A part with a defect."""

    async def run(self) -> None:
        raise RuntimeError("a defect")


def voices(run: SmallRun) -> Voices:
    return Voices(run.board, run.events, run.links.control, lambda: 7, lambda: 0)


def losses(run: SmallRun) -> list[tuple[str, bool]]:
    events = [leyline.RunEvent.FromString(payload) for payload in read_journal(run.folder.events_path).payloads]
    return [(event.control_loss.peer, event.control_loss.lost) for event in events if event.HasField("control_loss")]


def test_a_part_that_hangs_is_cancelled_and_holds_the_end_up_only_so_long() -> None:
    stuck = Stuck()
    mediator = Mediator(lambda: [stuck], 0.05, lambda name, why: None)
    mediator.start()
    wait_until(lambda: stuck.seen == ["began"], 5.0)
    began = time.monotonic()
    mediator.stop()
    assert stuck.seen == ["began", "cancelled"]
    assert time.monotonic() - began < 1.0


def test_a_defect_in_one_part_is_told_and_leaves_the_others_at_work() -> None:
    stuck, told = Stuck(), list[tuple[str, str]]()
    mediator = Mediator(lambda: [Broken("broken"), stuck], 0.05, lambda name, why: told.append((name, why)))
    mediator.start()
    wait_until(lambda: bool(told) and bool(stuck.seen), 5.0)
    assert told == [("broken", "RuntimeError: a defect")] and stuck.seen == ["began"]
    mediator.stop()


async def test_a_peer_is_tried_again_counted_lost_after_three_failures_and_welcomed_back(run: SmallRun) -> None:
    packets: list[leyline.TelemetryPacket] = []

    async def publish(packet: leyline.TelemetryPacket) -> None:
        packets.append(packet)

    telemetry = TelemetryEmitter("tolaria", publish)
    peer = ControlPeer("tamiyo", QUICK, voices(run), telemetry)
    peer.succeeded(await peer.permit())
    for failure in (TimeoutExceededError("late"), TimeoutError(), UnavailableError("gone")):
        assert not run.links.control.lost
        await peer.failed(await peer.permit(), failure)
    assert run.links.control.lost and losses(run) == [("tamiyo", True)]
    while run.links.control.lost:
        peer.succeeded(await peer.permit())
    assert losses(run) == [("tamiyo", True), ("tamiyo", False)]
    await telemetry.close()
    events = {event.name: event.level for packet in packets for event in packet.events}
    assert events["control_plane_lost"] == leyline.TELEMETRY_LEVEL_CRITICAL
    metrics = {point.name: point.value for packet in packets for point in packet.metrics}
    assert metrics["tolaria.timeout.tamiyo_total"] == 2.0


async def test_the_wait_for_a_lost_peer_can_be_cancelled(run: SmallRun) -> None:
    settings = QUICK.model_copy(update={"backoff_limit_s": 60.0})
    peer = ControlPeer("kasmina", settings, voices(run), TelemetryEmitter("tolaria", _nobody))
    for _ in range(3):
        permit = await peer.permit()
        permit.failure("gone")
    waiting = asyncio.create_task(peer.permit())
    await asyncio.sleep(0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting


async def _nobody(packet: leyline.TelemetryPacket) -> None:
    """Nobody listens."""
