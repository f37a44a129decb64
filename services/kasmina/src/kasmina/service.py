"""Wiring: which part of Kasmina knows which."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from esper_core.clocks import SYSTEM_CLOCK
from esper_core.errors import UnavailableError
from esper_core.files import FileLock, ensure_directory
from esper_core.logs import get_logger
from esper_core.pb.esper.kasmina.v1 import kasmina_pb2_grpc
from esper_core.pb.esper.urza.v1 import urza_pb2_grpc
from esper_core.rpc import EsperChannel, ServerHost, health_probe, open_channel, tls_from_environment
from esper_core.security import FreshnessPolicy, Keyring, TokenSource
from esper_core.telemetry import Instruments, TelemetryEmitter
from kasmina.bus import KasminaPlace
from kasmina.catalogue import Catalogue
from kasmina.dispatcher import Dispatcher
from kasmina.housekeeping import Housekeeping
from kasmina.journal import JournalFolder, NonceJournal
from kasmina.kernels import KernelTable
from kasmina.loading import KernelLoadManager
from kasmina.registry import RunRegistry
from kasmina.servicer import ExecutorServicer
from kasmina.settings import KasminaSettings
from kasmina.telemetry import WARNING, Telemetry
from kasmina.validator import CommandValidator
from kasmina.verifier import CommandVerifier, nonce_ledger
from kasmina.watching import CatalogueWatch

SERVICE = "esper.kasmina.v1.Executor"
READ_ONLY = ("ListSeeds", "GetSeed")
SERVICE_ONLY = ("Execute",)
_CLOCK = SYSTEM_CLOCK
_log = get_logger("kasmina")


@dataclass(frozen=True, slots=True)
class Voice:
    """How Kasmina speaks to the rest of the house."""

    bus: KasminaPlace
    emitter: TelemetryEmitter
    telemetry: Telemetry


@dataclass(frozen=True, slots=True)
class Shelf:
    """What Kasmina knows of Urza's library."""

    channel: EsperChannel
    urza: Any
    catalogue: Catalogue
    kernels: KernelLoadManager


@dataclass(frozen=True, slots=True)
class Desk:
    """Where commands are worked off."""

    nonces: NonceJournal
    verifier: CommandVerifier
    registry: RunRegistry
    dispatcher: Dispatcher


async def serve(settings: KasminaSettings) -> None:
    """Serve until SIGTERM.

    Raises
    ------
    EsperError
        If the data folder is in use, a port is taken, or the keyring cannot be read.
    """
    folder = ensure_directory(settings.data_dir)
    with FileLock(folder / "kasmina.lock"):
        keyring = Keyring.load(settings.keyring_file)
        host = ServerHost.from_settings("kasmina", settings)
        voice = _voice(settings, keyring, host)
        shelf = _shelf(settings, keyring, voice)
        desk = _desk(settings, keyring, voice, shelf)
        _furnish(host, voice, shelf, desk)
        await host.run_until_stopped()


def _voice(settings: KasminaSettings, keyring: Keyring, host: ServerHost) -> Voice:
    instruments = Instruments(host.registry)
    bus = KasminaPlace.at(settings.oona_address, "kasmina", keyring, instruments)
    emitter = TelemetryEmitter("kasmina", bus.publish_telemetry)
    bus.report_to(emitter)
    return Voice(bus, emitter, Telemetry(instruments, emitter))


def _shelf(settings: KasminaSettings, keyring: Keyring, voice: Voice) -> Shelf:
    channel = open_channel(settings.peer("urza"), TokenSource(keyring, "kasmina"), "kasmina", tls_from_environment())
    urza = urza_pb2_grpc.LibraryStub(channel)
    kernels = KernelLoadManager(
        KernelTable(settings.kernels_kept),
        urza,
        voice.bus.publish_prefetch,
        voice.telemetry,
        budget_s=settings.prefetch_budget_s,
        clock=_CLOCK,
    )
    return Shelf(channel, urza, Catalogue(), kernels)


def _desk(settings: KasminaSettings, keyring: Keyring, voice: Voice, shelf: Shelf) -> Desk:
    telemetry, rules = voice.telemetry, settings.rules()
    journals = JournalFolder(settings.data_dir, lambda sentence: _damaged(telemetry, sentence))
    nonces = journals.open_nonces()
    validator = CommandValidator(shelf.catalogue, rules)
    verifier = _verifier(settings, keyring, nonces, telemetry)
    dispatcher = Dispatcher(
        verifier,
        validator,
        shelf.kernels,
        shelf.catalogue,
        telemetry,
        kernel_wait_s=settings.kernel_wait_s,
        clock=_CLOCK,
    )
    return Desk(nonces, verifier, RunRegistry(journals, rules, validator, telemetry, _CLOCK), dispatcher)


def _verifier(
    settings: KasminaSettings, keyring: Keyring, nonces: NonceJournal, telemetry: Telemetry
) -> CommandVerifier:
    ledger = nonce_ledger(nonces, settings.nonce_capacity, settings.nonce_ttl_s, _CLOCK)
    freshness = FreshnessPolicy(settings.freshness_window_s, settings.future_skew_s)
    return CommandVerifier(keyring, ledger, freshness, telemetry, _CLOCK, ttl_s=settings.nonce_ttl_s)


def _damaged(telemetry: Telemetry, sentence: str) -> None:
    _log.warning("journal damaged", reason=sentence)
    telemetry.event("journal_damaged", WARNING, sentence)


def _furnish(host: ServerHost, voice: Voice, shelf: Shelf, desk: Desk) -> None:
    """Give the host its servicer, what runs beside it, and what has to be let go of at the end, last things first."""
    servicer = ExecutorServicer(desk.registry, desk.dispatcher, shelf.kernels, shelf.catalogue, voice.telemetry)
    host.add(
        servicer,
        kasmina_pb2_grpc.add_ExecutorServicer_to_server,
        SERVICE,
        read_only_methods=READ_ONLY,
        service_only_methods=SERVICE_ONLY,
    )
    keeping = Housekeeping(shelf.kernels, desk.verifier, desk.nonces, desk.registry, _CLOCK)
    host.watch_dependency("urza", lambda: _urza_answers(shelf))
    host.run_in_background("catalogue", CatalogueWatch(shelf.urza, shelf.catalogue, shelf.kernels).run)
    host.run_in_background("telemetry", voice.emitter.run)
    host.run_in_background("kernel news", lambda: voice.bus.consume(shelf.kernels))
    host.run_in_background("housekeeping", keeping.run)
    host.run_in_background("farewell", lambda: _stop_waiting(host, shelf.kernels))
    host.on_shutdown(desk.nonces.close)
    host.on_shutdown(desk.registry.close)
    host.on_shutdown(shelf.channel.close)
    host.on_shutdown(voice.bus.close)
    host.on_shutdown(lambda: _last_words(voice.emitter))


async def _urza_answers(shelf: Shelf) -> None:
    await health_probe(shelf.channel, peer="urza")()
    if not shelf.catalogue.heard:
        raise UnavailableError("Urza has not told its blueprints yet.")


async def _stop_waiting(host: ServerHost, kernels: KernelLoadManager) -> None:
    """Let no command wait for its kernel while the calls in flight are drained."""
    await host.draining.wait()
    kernels.close()


async def _last_words(emitter: TelemetryEmitter) -> None:
    await emitter.close()
