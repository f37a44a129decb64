"""Start-up of Nissa."""

from __future__ import annotations

import sys

from esper_core.bus import BusClient, Received
from esper_core.files import ensure_directory
from esper_core.pb.esper.nissa.v1 import nissa_pb2_grpc
from esper_core.rpc import ServerHost, health_probe, open_channel, run_service, tls_from_environment
from esper_core.security import Keyring, TokenSource
from esper_core.telemetry import Instruments
from nissa.board import MetricBoard
from nissa.history import History
from nissa.intake import INTERESTS, Intake, ReportCounter
from nissa.servicer import ObservatoryServicer
from nissa.settings import NissaSettings

SERVICE = "esper.nissa.v1.Observatory"
READ_ONLY = ("QueryMetrics", "ListAlerts", "GetSlos", "QueryEvents", "WatchEvents")


async def serve(settings: NissaSettings) -> None:
    folder = ensure_directory(settings.data_dir)
    host = ServerHost.from_settings("nissa", settings)
    keyring = Keyring.load(settings.keyring_file)
    instruments = Instruments(host.registry)
    history = History(folder / "history.sqlite")
    intake = Intake(history, MetricBoard(settings.max_series), ReportCounter(history), instruments)
    host.registry.register(intake.board)
    host.registry.register(intake.reports)
    bus = BusClient(settings.peer("oona"), "nissa", keyring, instruments=instruments)
    oona = open_channel(settings.peer("oona"), TokenSource(keyring, "nissa"), "nissa", tls_from_environment())

    async def take(received: Received) -> None:
        await intake.take(received.message, received.source)

    host.add(
        ObservatoryServicer(intake),
        nissa_pb2_grpc.add_ObservatoryServicer_to_server,
        SERVICE,
        read_only_methods=READ_ONLY,
        validate_requests=True,
    )
    host.watch_dependency("oona", health_probe(oona, peer="oona"))
    host.run_in_background("intake", lambda: bus.consume(INTERESTS, group="nissa", handler=take, max_in_flight=64))
    host.on_shutdown(oona.close)
    host.on_shutdown(bus.close)
    await host.run_until_stopped()


def main() -> int:
    return run_service("nissa", NissaSettings, serve)


if __name__ == "__main__":
    sys.exit(main())
