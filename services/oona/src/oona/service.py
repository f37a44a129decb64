"""Wiring of Oona."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeAlias

from esper_core import leyline
from esper_core.breaker import CircuitBreaker
from esper_core.bus import STREAMS, EnvelopeSealer, EnvelopeVerifier, RetryPolicy
from esper_core.clocks import SYSTEM_CLOCK, Clock
from esper_core.errors import EsperError
from esper_core.files import ensure_directory
from esper_core.pb.esper.oona.v1 import oona_pb2, oona_pb2_grpc
from esper_core.rpc import ServerHost
from esper_core.security import Keyring
from esper_core.telemetry import Instruments, TelemetryEmitter
from oona.admission import Admission
from oona.backlog import Backlogs
from oona.group import GroupMember
from oona.layout import Layout
from oona.pressure import PressureGate, PressureLimits
from oona.publisher import Publisher
from oona.redis_link import RedisLink
from oona.servicer import BrokerServicer
from oona.settings import OonaSettings
from oona.spill import Spill
from oona.store import Store
from oona.subscription import Subscription, Times, group_of
from oona.telling import Teller
from oona.tokens import TokenBuckets
from oona.upkeep import Upkeep

Publish: TypeAlias = Callable[[leyline.TelemetryPacket], Awaitable[None]]
SERVICE: Final = "esper.oona.v1.Broker"
READ_ONLY: Final = ("ListStreams", "ListDeadLetters")
SERVICE_ONLY: Final = ("Publish", "PublishStream", "Subscribe")


def assemble(settings: OonaSettings, host: ServerHost, keyring: Keyring, clock: Clock = SYSTEM_CLOCK) -> None:
    """Put the broker into a server host; it starts with the host, whether Redis is there or not."""
    layout, link = Layout.from_settings(settings), RedisLink(settings)
    teller = Teller(Instruments(host.registry))
    store, backlogs = Store(link, layout), Backlogs(link.pool, layout)
    spill = Spill(ensure_directory(settings.data_dir) / "spill.journal", settings.spill_max_messages)
    admission = _admission(settings)
    publish_breaker, consume_breaker = _breaker("publish", settings, teller), _breaker("consume", settings, teller)
    verifier = EnvelopeVerifier(keyring, clock=clock)
    publisher = Publisher(verifier, admission, store, spill, publish_breaker, teller, clock)
    upkeep = Upkeep(link, layout, settings, admission, store, spill, teller, clock)
    emitter = TelemetryEmitter("oona", _self_publication(publisher, EnvelopeSealer("oona", keyring, clock=clock)))
    teller.events = emitter

    servicer = BrokerServicer(
        publisher,
        _subscriptions(settings, link, layout, teller, consume_breaker),
        store,
        spill,
        backlogs,
        lambda logical: admission.gates[logical].active,
        teller,
        host.draining,
    )
    host.add(
        servicer,
        oona_pb2_grpc.add_BrokerServicer_to_server,
        SERVICE,
        read_only_methods=READ_ONLY,
        service_only_methods=SERVICE_ONLY,
    )
    host.watch_dependency("redis", upkeep.probe, interval_s=1.0)
    host.run_in_background("measure", upkeep.measure_for_ever)
    host.run_in_background("trim", upkeep.trim_for_ever)
    host.run_in_background("drain the spill journal", upkeep.drain_for_ever)
    host.run_in_background("telemetry", emitter.run)
    host.on_shutdown(link.close)
    host.on_shutdown(spill.close)
    host.on_shutdown(lambda: _last_words(emitter))


def _admission(settings: OonaSettings) -> Admission:
    limits = PressureLimits(
        settings.backpressure_enter,
        settings.backpressure_enter_normal,
        settings.backpressure_leave,
        settings.backpressure_min_s,
    )
    gates = {logical: PressureGate(limits) for logical in STREAMS}
    return Admission(gates, TokenBuckets(settings.emergency_max_per_min), settings.emergency_threshold)


def _breaker(name: str, settings: OonaSettings, teller: Teller) -> CircuitBreaker:
    teller.instruments.gauge("oona.breaker.state", leyline.CIRCUIT_STATE_CLOSED, breaker=f"oona.{name}")
    return CircuitBreaker(
        f"oona.{name}",
        failure_threshold=settings.breaker_failures,
        open_s=settings.breaker_open_ms / 1000,
        on_transition=teller.breaker_moved,
    )


def _subscriptions(
    settings: OonaSettings, link: RedisLink, layout: Layout, teller: Teller, breaker: CircuitBreaker
) -> Callable[[oona_pb2.SubscribeOpen], Subscription]:
    retry = RetryPolicy(
        settings.retry_max_attempts,
        settings.retry_max_deliveries,
        settings.retry_first_delay_ms / 1000,
        settings.retry_longest_delay_ms / 1000,
    )
    times = Times(settings.claim_idle_ms, settings.delivery_timeout_s)

    def make(opening: oona_pb2.SubscribeOpen) -> Subscription:
        member = GroupMember(link.pool, layout, group_of(opening), opening.consumer, retry)
        return Subscription(opening, member, link.dedicated, retry, times, teller, breaker)

    return make


def _self_publication(publisher: Publisher, sealer: EnvelopeSealer) -> Publish:
    async def publish(packet: leyline.TelemetryPacket) -> None:
        envelope = sealer.compose(
            leyline.BUS_MESSAGE_TYPE_TELEMETRY, packet, packet.priority, message_id=packet.packet_id
        )
        (outcome,) = await publisher.publish([sealer.seal(envelope)])
        if isinstance(outcome, EsperError):
            raise outcome

    return publish


async def _last_words(emitter: TelemetryEmitter) -> None:
    await emitter.close()
