"""The conversation with Tamiyo: one evaluation in flight, on the latest state; a faster trainer is conflated."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import grpc

from esper_core import leyline
from esper_core.breaker import Permit
from esper_core.errors import UnavailableError, from_code
from esper_core.pb.esper.tamiyo.v1.tamiyo_pb2_grpc import ControllerStub
from tolaria.mediator.hardware import Hardware
from tolaria.mediator.packets import state_packet
from tolaria.mediator.peer import PEER_FAILURES, ControlPeer, Voices
from tolaria.mediator.wake import Wake
from tolaria.reporting.records import RunFacts, StepRecord
from tolaria.reporting.reporter import Reporter
from tolaria.settings import WorkerSettings
from tolaria.training.links import Links


class _NothingLeft(Exception):
    """There is no record any more."""


class TamiyoPart:
    """Keeps the Advise stream and passes commands on.

    Parameters
    ----------
    channel : grpc.aio.Channel
        To Tamiyo.
    facts, settings, links, reporter, voices, peer
        The run and its surroundings.
    pass_on : callable
        Takes a command that goes to Kasmina.
    """

    name = "tamiyo"

    def __init__(
        self,
        channel: grpc.aio.Channel,
        facts: RunFacts,
        settings: WorkerSettings,
        links: Links,
        reporter: Reporter,
        voices: Voices,
        peer: ControlPeer,
        pass_on: Callable[[leyline.AdaptationCommand], None],
    ) -> None:
        self._stub: Any = ControllerStub(channel)
        self._channel = channel
        self._facts = facts
        self._settings = settings
        self._slot = links.records
        self._reporter = reporter
        self._voices = voices
        self._pass_on = pass_on
        self._peer = peer
        self._wake = Wake()
        self._call: Any = None
        self._context_for = -1
        self._latency_ms: float | None = None
        self._told_reason = ""
        self._hardware = Hardware(facts.device)
        self._finishing = False
        self._gone = asyncio.Event()

    async def run(self) -> None:
        """Ask again and again until told to finish, or cancelled."""
        self._slot.on_put(self._wake.from_thread())
        try:
            while await self._ask_once():
                await asyncio.sleep(self._settings.advise_interval_ms / 1000)
            await self._say_goodbye()
        finally:
            self._hang_up()
            self._gone.set()

    async def finish(self) -> None:
        """Let Tamiyo see the last record, then close; the caller bounds the time."""
        self._finishing = True
        self._wake.set()
        await self._gone.wait()
        await self._channel.close()

    async def _ask_once(self) -> bool:
        """Ask for one decision and act on it; False when there is nothing more to ask."""
        permit = await self._peer.permit()
        try:
            decision = await self._evaluate()
        except _NothingLeft:
            permit.abandon()
            return False
        except PEER_FAILURES as error:
            self._hang_up()
            await self._failed(permit, error)
            return not self._finishing
        except asyncio.CancelledError:
            permit.abandon()
            raise
        if decision.WhichOneof("outcome") == "failure" and decision.failure.retryable:
            self._voices.events.append(decision, self._voices.step())
            await self._failed(permit, from_code(decision.failure.code, decision.failure.message, {}))
        else:
            self._peer.succeeded(permit)
            self._take(decision)
        return True

    async def _say_goodbye(self) -> None:
        """End the stream in good order: for Tamiyo that is the end of the run's observation windows."""
        if self._call is not None:
            await self._call.done_writing()
            async with asyncio.timeout(self._settings.advise_timeout_s):
                while await self._call.read() is not grpc.aio.EOF:
                    continue

    async def _failed(self, permit: Permit, error: Exception) -> None:
        """Count a failure, unless the stream ended because we said goodbye."""
        if self._finishing:
            permit.abandon()
        else:
            await self._peer.failed(permit, error)

    async def _evaluate(self) -> leyline.Decision:
        record = await self._record()
        if self._call is None:
            self._call = self._stub.Advise()
            self._context_for = -1
        with_context = self._context_for != record.generation
        if with_context and not record.layers:
            self._reporter.layers_wanted = True
            record = await self._record()
        packet = state_packet(
            record, self._facts, self._hardware.now(), with_context=with_context, latency_ms=self._latency_ms
        )
        began = time.perf_counter()
        async with asyncio.timeout(self._settings.advise_timeout_s):
            await self._call.write(packet)
            decision = await self._call.read()
        if decision is grpc.aio.EOF:
            self._call = None
            raise UnavailableError("Tamiyo ended the conversation.")
        self._latency_ms = (time.perf_counter() - began) * 1000
        if with_context:
            self._context_for = record.generation
        answered: leyline.Decision = decision
        return answered

    async def _record(self) -> StepRecord:
        """Wait for a record made from now on; while the run is paused there is none, and nothing to decide."""
        self._slot.want()
        while True:
            record = self._slot.take()
            if record is not None:
                return record
            if self._finishing:
                raise _NothingLeft
            await self._wake.wait()

    def _take(self, decision: leyline.Decision) -> None:
        outcome = decision.WhichOneof("outcome")
        if outcome == "command":
            self._voices.events.append(decision, self._voices.step())
            self._pass_on(decision.command)
        elif outcome == "failure":
            self._voices.events.append(decision, self._voices.step())
        elif decision.no_action.reason != self._told_reason:
            # The same wait repeated fifty times a second would bury the journal: only a new reason is an event.
            self._voices.events.append(decision, self._voices.step())
        self._told_reason = decision.no_action.reason if outcome == "no_action" else ""

    def _hang_up(self) -> None:
        if self._call is not None:
            self._call.cancel()
            self._call = None
