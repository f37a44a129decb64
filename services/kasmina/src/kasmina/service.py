"""Wiring: which part of Kasmina knows which."""

from __future__ import annotations

from esper_core.clocks import SYSTEM_CLOCK
from esper_core.errors import UnavailableError
from esper_core.files import FileLock, ensure_directory
from esper_core.logs import get_logger
from esper_core.pb.esper.kasmina.v1 import kasmina_pb2_grpc
from esper_core.pb.esper.urza.v1 import urza_pb2_grpc
from esper_core.rpc import ServerHost, health_probe, open_channel, tls_from_environment
from esper_core.security.keyring import Keyring
from esper_core.security.signing import FreshnessPolicy
from esper_core.security.tokens import TokenSource
from esper_core.telemetry import Instruments, TelemetryEmitter
from kasmina.bus import BusLink
from kasmina.catalogue import Catalogue
from kasmina.dispatcher import Dispatcher
from kasmina.housekeeping import Housekeeping
from kasmina.journal import JournalFolder
from kasmina.kernels import KernelTable
from kasmina.registry import RunRegistry
from kasmina.servicer import ExecutorServicer
from kasmina.settings import KasminaSettings
from kasmina.supply import KernelSupply
from kasmina.telemetry import WARNING, Telemetry
from kasmina.validator import CommandValidator
from kasmina.verifier import CommandVerifier, nonce_ledger
from kasmina.watching import CatalogueWatch

SERVICE = "esper.kasmina.v1.Executor"
READ_ONLY = ("ListSeeds", "GetSeed")
SERVICE_ONLY = ("Execute",)
_log = get_logger("kasmina")


async def serve(settings: KasminaSettings) -> None:
    """Serve until SIGTERM.

    Raises
    ------
    EsperError
        If the data folder is in use, a port is taken, or the keyring cannot be read.
    """
    folder = ensure_directory(settings.data_dir)
    with FileLock(folder / "kasmina.lock"):
        await _serve(settings)


async def _serve(settings: KasminaSettings) -> None:
    clock, rules = SYSTEM_CLOCK, settings.rules()
    keyring = Keyring.load(settings.keyring_file)
    host = ServerHost.from_settings("kasmina", settings)
    bus = BusLink.from_settings(settings, keyring)
    emitter = TelemetryEmitter("kasmina", bus.publish_telemetry)
    telemetry = Telemetry(Instruments(host.registry), emitter)

    def damaged(sentence: str) -> None:
        _log.warning("journal damaged", reason=sentence)
        telemetry.event("journal_damaged", WARNING, sentence)

    journals = JournalFolder(settings.data_dir, damaged)
    nonces = journals.open_nonces()
    ledger = nonce_ledger(nonces, settings.nonce_capacity, settings.nonce_ttl_s, clock)
    freshness = FreshnessPolicy(settings.freshness_window_s, settings.future_skew_s)
    verifier = CommandVerifier(keyring, ledger, freshness, telemetry, clock, ttl_s=settings.nonce_ttl_s)

    channel = open_channel(settings.peer("urza"), TokenSource(keyring, "kasmina"), "kasmina", tls_from_environment())
    urza = urza_pb2_grpc.LibraryStub(channel)
    catalogue = Catalogue()
    kernels = KernelSupply(
        KernelTable(), urza, bus.publish_prefetch, telemetry, budget_s=settings.prefetch_budget_s, clock=clock
    )
    validator = CommandValidator(catalogue, rules)
    registry = RunRegistry(journals, rules, validator, telemetry, clock)
    dispatcher = Dispatcher(
        verifier, validator, kernels, catalogue, telemetry, kernel_wait_s=settings.kernel_wait_s, clock=clock
    )
    servicer = ExecutorServicer(registry, dispatcher, kernels, catalogue, telemetry)
    host.add(
        servicer,
        kasmina_pb2_grpc.add_ExecutorServicer_to_server,
        SERVICE,
        read_only_methods=READ_ONLY,
        service_only_methods=SERVICE_ONLY,
    )
    probe = health_probe(channel, peer="urza")

    async def urza_answers() -> None:
        await probe()
        if not catalogue.heard:
            raise UnavailableError("Urza has not told its blueprints yet.")

    host.watch_dependency("urza", urza_answers)
    host.run_in_background("catalogue", CatalogueWatch(urza, catalogue, kernels).run)
    host.run_in_background("telemetry", emitter.run)
    host.run_in_background("kernel news", lambda: bus.consume(kernels))
    host.run_in_background("housekeeping", Housekeeping(kernels, verifier, nonces, registry, clock).run)
    host.on_shutdown(nonces.close)
    host.on_shutdown(registry.close)
    host.on_shutdown(channel.close)
    host.on_shutdown(bus.close)
    host.on_shutdown(lambda: _last_words(emitter))
    await host.run_until_stopped()


async def _last_words(emitter: TelemetryEmitter) -> None:
    await emitter.close()
