"""Wiring: which part of Tamiyo knows which."""

from __future__ import annotations

import gc
from pathlib import Path

from esper_core.breaker import CircuitBreaker
from esper_core.clocks import SYSTEM_CLOCK
from esper_core.errors import UnavailableError
from esper_core.files import FileLock, ensure_directory
from esper_core.pb.esper.tamiyo.v1 import tamiyo_pb2_grpc
from esper_core.pb.esper.urza.v1 import urza_pb2_grpc
from esper_core.rpc import ServerHost, health_probe, open_channel, tls_from_environment
from esper_core.security import Keyring, MessageSigner, TokenSource
from esper_core.telemetry import Instruments, TelemetryEmitter
from tamiyo.advisor import Advisor
from tamiyo.bus import TamiyoPlace
from tamiyo.catalogue import Catalogue
from tamiyo.controller import Controller, Sign
from tamiyo.desk import Desk, Reporting
from tamiyo.foresight import Foresight
from tamiyo.operator_mode import OperatorMode
from tamiyo.reporting.publisher import ReportPublisher
from tamiyo.runs import RunTable
from tamiyo.servicer import ControllerServicer
from tamiyo.settings import TamiyoSettings
from tamiyo.store import Store
from tamiyo.telemetry import Telemetry
from tamiyo.warming import warm
from tamiyo.watching import CatalogueWatch

SERVICE = "esper.tamiyo.v1.Controller"
READ_ONLY = ("GetPolicy", "Explain", "ListFieldReports")
SERVICE_ONLY = ("Advise",)


async def serve(settings: TamiyoSettings) -> None:
    """Serve until SIGTERM.

    Raises
    ------
    EsperError
        If the data folder is in use, a port is taken, or the keyring cannot be read.
    """
    folder = ensure_directory(settings.data_dir)
    with FileLock(folder / "tamiyo.lock"):
        await _serve(settings, folder)


async def _serve(settings: TamiyoSettings, folder: Path) -> None:
    keyring = Keyring.load(settings.keyring_file)
    host = ServerHost.from_settings("tamiyo", settings)
    instruments = Instruments(host.registry)
    bus = TamiyoPlace.at(settings.oona_address, "tamiyo", keyring, instruments)
    emitter = TelemetryEmitter("tamiyo", bus.publish_telemetry)
    bus.report_to(emitter)
    telemetry = Telemetry(instruments, emitter)
    catalogue, runs = Catalogue(SYSTEM_CLOCK), RunTable()
    sign = MessageSigner(keyring, "command", window_s=settings.command_deadline_s).sign
    controller = _controller(settings, runs, catalogue, sign, telemetry, emitter)
    store = Store.open(folder, settings, runs, telemetry)
    publisher = ReportPublisher(
        store.ledger, store.report_commits, bus.publish_report, telemetry, settings.retry_rules(), SYSTEM_CLOCK
    )
    foresight = Foresight(catalogue, settings.rulebook().growth, bus.publish_prefetch)
    desk = Desk(
        Advisor(controller, store.decision_commits, store.index, telemetry, journal_waits=settings.journal_waits),
        store.index,
        Reporting(store.ledger, store.book, publisher),
        OperatorMode(folder / "operator.json", runs),
        telemetry,
        foresight,
        run_silent_s=settings.fr_run_silent_s,
    )
    host.add(
        ControllerServicer(desk),
        tamiyo_pb2_grpc.add_ControllerServicer_to_server,
        SERVICE,
        read_only_methods=READ_ONLY,
        service_only_methods=SERVICE_ONLY,
    )
    host.on_shutdown(bus.close)
    host.on_shutdown(lambda: _last_words(emitter))
    host.on_shutdown(store.close)
    _follow_urza(host, settings, keyring, catalogue)
    host.run_in_background("decision journal", store.decision_commits.run)
    host.run_in_background("report journal", store.report_commits.run)
    host.run_in_background("field reports", publisher.run)
    host.run_in_background("foresight", foresight.run)
    host.run_in_background("silent runs", desk.sweep)
    host.run_in_background("telemetry", emitter.run)
    publisher.republish()
    publisher.take(store.due)
    warm(settings.rulebook(), sign)
    gc.collect()
    gc.freeze()
    await host.run_until_stopped()


def _controller(
    settings: TamiyoSettings,
    runs: RunTable,
    catalogue: Catalogue,
    sign: Sign,
    telemetry: Telemetry,
    emitter: TelemetryEmitter,
) -> Controller:
    breaker = CircuitBreaker(
        "tamiyo.evaluation",
        failure_threshold=settings.step_breaker_failures,
        open_s=settings.step_breaker_open_s,
        on_transition=telemetry.breaker_moved,
    )
    return Controller(
        runs,
        catalogue,
        settings.rulebook(),
        sign,
        breaker,
        violated=emitter.dependency_violated,
        command_deadline_s=settings.command_deadline_s,
    )


def _follow_urza(host: ServerHost, settings: TamiyoSettings, keyring: Keyring, catalogue: Catalogue) -> None:
    channel = open_channel(settings.peer("urza"), TokenSource(keyring, "tamiyo"), "tamiyo", tls_from_environment())
    watch = CatalogueWatch(urza_pb2_grpc.LibraryStub(channel), catalogue)
    probe = health_probe(channel, peer="urza")

    async def urza_answers() -> None:
        await probe()
        watch.answered()
        if not catalogue.heard:
            raise UnavailableError("Urza has not told its blueprints yet.")

    host.watch_dependency("urza", urza_answers)
    host.run_in_background("catalogue", watch.run)
    host.on_shutdown(channel.close)


async def _last_words(emitter: TelemetryEmitter) -> None:
    await emitter.close()
