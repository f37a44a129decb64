"""Puts Weatherlight together: supervising a local stack, or watching services that others run."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import grpc.aio

from esper_core.bus import BusClient
from esper_core.clocks import Clock
from esper_core.rpc import open_channel, tls_from_environment
from esper_core.security import Keyring, TokenSource
from esper_core.stack import STORE, StackPaths, StackRecord
from esper_core.telemetry import TelemetryEmitter
from weatherlight.backoff import BackoffPolicy
from weatherlight.bridge import BridgeWatch
from weatherlight.emergencies import EmergencyRouter
from weatherlight.health import HealthBoard
from weatherlight.mode import ModeKeeper
from weatherlight.orchestrator import Orchestrator, Roster
from weatherlight.peers import GrpcPeers
from weatherlight.probes import Probe, grpc_probe, store_probe
from weatherlight.rosters import ConfiguredRoster, LocalRoster
from weatherlight.settings import WeatherlightSettings
from weatherlight.signals import SignalDesk
from weatherlight.supervisor import Supervisor
from weatherlight.telling import Teller
from weatherlight.topology import SELF, SYSTEM

Background = tuple[str, Callable[[], Coroutine[Any, Any, object]]]


@dataclass(slots=True)
class Wiring:
    """Everything that lives as long as the process."""

    orchestrator: Orchestrator
    board: HealthBoard
    supervisor: Supervisor | None
    channels: dict[str, grpc.aio.Channel]
    bus: BusClient
    emitter: TelemetryEmitter
    desk: SignalDesk
    bridge: BridgeWatch | None

    @classmethod
    def of(cls, settings: WeatherlightSettings, clock: Clock) -> Wiring:
        """Put everything together.

        Raises
        ------
        NotFoundError
            If a local stack is to be supervised whose record does not exist.
        """
        keyring = Keyring.load(settings.keyring_file)
        tokens = TokenSource(keyring, SELF, "service")
        tls = tls_from_environment()
        addresses = _addresses(settings)
        channels: dict[str, grpc.aio.Channel] = {
            name: open_channel(address, tokens, SELF, tls) for name, address in addresses.items() if name != STORE
        }
        board = HealthBoard(
            _probes(addresses, channels),
            clock,
            interval_s=settings.health_interval_ms / 1000,
            timeout_s=settings.health_timeout_ms / 1000,
        )
        bus = BusClient(addresses["oona"], SELF, keyring, tls=tls, clock=clock)
        emitter = TelemetryEmitter(SELF, bus.publish_telemetry)
        bus.report_to(emitter)
        teller = Teller(emitter)
        supervisor = _supervisor(settings, board, clock, teller)
        roster: Roster = LocalRoster(supervisor) if supervisor is not None else ConfiguredRoster(addresses)
        modes = ModeKeeper()
        router = EmergencyRouter(
            GrpcPeers(channels["tolaria"], channels["tamiyo"]),
            lambda emergency: modes.raise_emergency(emergency.signal_id, emergency.level, emergency.reason),
        )
        orchestrator = Orchestrator(roster, board, modes, router, clock, teller.mode)
        desk = SignalDesk(bus, keyring, orchestrator, emitter, clock)
        orchestrator.raised_here = desk.announce
        bridge = None
        if settings.bridge_dir is not None:
            pause_s = settings.bridge_interval_ms / 1000
            bridge = BridgeWatch(settings.bridge_dir, desk, orchestrator, emitter, clock, interval_s=pause_s)
        return cls(orchestrator, board, supervisor, channels, bus, emitter, desk, bridge)

    def background(self) -> list[Background]:
        """Return the work that runs from the start to the drain."""
        work: list[Background] = [
            ("health", self.board.watch),
            ("mode", self.orchestrator.follow_health),
            ("emergency signals", self.desk.run),
            ("telemetry", self.emitter.run),
        ]
        if self.bridge is not None:
            work.append(("bridge", self.bridge.run))
        if self.supervisor is not None:
            work.append(("supervision", self.supervisor.run))
        return work

    async def close(self) -> None:
        """Stop the local stack, if there is one, and close all channels."""
        if self.supervisor is not None:
            await self.supervisor.stop()
        await self.bus.close(drain_s=0.0)
        for channel in self.channels.values():
            await channel.close()


def _addresses(settings: WeatherlightSettings) -> dict[str, str]:
    if settings.state_dir is not None:
        record = StackRecord.load(StackPaths(settings.state_dir).record)
        return {node.name: record.address(node.name) for node in SYSTEM}
    return {node.name: settings.peer(node.name) for node in SYSTEM if node.name != STORE}


def _probes(addresses: dict[str, str], channels: dict[str, grpc.aio.Channel]) -> dict[str, Probe]:
    return {
        name: store_probe(address) if name == STORE else grpc_probe(channels[name])
        for name, address in addresses.items()
    }


def _supervisor(settings: WeatherlightSettings, board: HealthBoard, clock: Clock, teller: Teller) -> Supervisor | None:
    if settings.state_dir is None:
        return None
    paths = StackPaths(settings.state_dir)
    return Supervisor(
        paths=paths,
        record=StackRecord.load(paths.record),
        board=board,
        clock=clock,
        tell=teller.process,
        policy=BackoffPolicy(first_s=settings.restart_first_s, longest_s=settings.restart_longest_s),
        stop_grace_s=settings.stop_grace_s,
        silence_limit_s=settings.silence_limit_s,
    )
