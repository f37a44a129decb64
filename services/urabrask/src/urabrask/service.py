"""Wiring: which part of Urabrask knows which."""

from __future__ import annotations

from esper_core import leyline
from esper_core.bus import BusClient
from esper_core.errors import UnavailableError
from esper_core.files import ensure_directory
from esper_core.logs import get_logger
from esper_core.pb.esper.urabrask.v1 import urabrask_pb2_grpc
from esper_core.pb.esper.urza.v1 import urza_pb2_grpc
from esper_core.rpc import ServerHost, health_probe, open_channel, tls_from_environment
from esper_core.security import Keyring, TokenSource
from esper_core.telemetry import Instruments, TelemetryEmitter
from urabrask.assessor import Assessor
from urabrask.jobs import JobList
from urabrask.laboratory import Laboratory
from urabrask.library import LibraryClient
from urabrask.prefetch import PrefetchDesk
from urabrask.servicer import AssessorServicer
from urabrask.settings import UrabraskSettings
from urabrask.sheet_book import SheetBook
from urabrask.sheets import SheetOffice
from urabrask.telling import Teller

NAME = "urabrask"
SERVICE = "esper.urabrask.v1.Assessor"
READ_ONLY = ("GetBsds", "ListJobs")
_log = get_logger(NAME)


async def serve(settings: UrabraskSettings) -> None:
    """Serve until SIGTERM.

    Raises
    ------
    EsperError
        If the data folder is in use, a port is taken, or the keyring cannot be read.
    """
    keyring, token = Keyring.load(settings.keyring_file), TokenSource(Keyring.load(settings.keyring_file), NAME)
    host = ServerHost.from_settings(NAME, settings)
    instruments = Instruments(host.registry)
    bus = BusClient(settings.peer("oona"), NAME, keyring, instruments=instruments)
    emitter = TelemetryEmitter(NAME, bus.publish_telemetry)
    bus.report_to(emitter)

    urza = open_channel(settings.peer("urza"), token, NAME, tls_from_environment())
    oona = open_channel(settings.peer("oona"), token, NAME, tls_from_environment())
    library = LibraryClient(urza_pb2_grpc.LibraryStub(urza), settings.urza_deadline_s)
    laboratory = Laboratory(settings.limits())
    book = SheetBook(ensure_directory(settings.data_dir) / "sheets.journal")
    teller = Teller(instruments, emitter, bus)
    assessor = Assessor(laboratory, library, SheetOffice(keyring), book, teller)
    jobs = JobList(settings.jobs_kept)
    desk = PrefetchDesk(assessor, jobs, bus)
    instruments.watch("urabrask.jobs.active", lambda: jobs.active)
    instruments.watch("urabrask.children.replaced", lambda: laboratory.children_replaced)

    host.add(
        AssessorServicer(assessor, library, jobs),
        urabrask_pb2_grpc.add_AssessorServicer_to_server,
        SERVICE,
        read_only_methods=READ_ONLY,
    )
    host.watch_dependency("urza", health_probe(urza, peer="urza"))
    host.watch_dependency("oona", health_probe(oona, peer="oona"))
    host.run_in_background("telemetry", emitter.run)
    host.run_in_background("first child", lambda: _warm_up(laboratory))
    host.run_in_background(
        "prefetch requests",
        lambda: bus.consume(
            [leyline.BUS_MESSAGE_TYPE_KERNEL_PREFETCH_REQUEST],
            group=NAME,
            handler=desk.take,
            max_in_flight=2 * settings.prefetch_concurrency,
            concurrency=settings.prefetch_concurrency,
        ),
    )
    host.on_shutdown(bus.close)
    host.on_shutdown(urza.close)
    host.on_shutdown(oona.close)
    host.on_shutdown(book.close)
    host.on_shutdown(laboratory.close)
    host.on_shutdown(lambda: _last_words(emitter))
    await host.run_until_stopped()


async def _warm_up(laboratory: Laboratory) -> None:
    try:
        version = await laboratory.warm_up()
    except UnavailableError as error:
        # The first trial tries again, and says so to whoever asked for it.
        _log.warning("no child process yet", reason=error.message)
    else:
        _log.info("ready for trials", torch=version)


async def _last_words(emitter: TelemetryEmitter) -> None:
    await emitter.close()
