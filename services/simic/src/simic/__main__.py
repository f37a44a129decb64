"""Start-up of Simic."""

from __future__ import annotations

import sys

from esper_core.bus import BusClient
from esper_core.files import ensure_directory
from esper_core.pb.esper.simic.v1 import simic_pb2_grpc
from esper_core.rpc import ServerHost, health_probe, open_channel, run_service, tls_from_environment
from esper_core.security import Keyring, TokenSource
from esper_core.telemetry import Instruments
from simic.ingest import ReportIngest
from simic.replay import ReplayStore
from simic.servicer import LearnerServicer
from simic.settings import SimicSettings

SERVICE = "esper.simic.v1.Learner"


async def serve(settings: SimicSettings) -> None:
    folder = ensure_directory(settings.data_dir)
    replay = ReplayStore(folder / "replay.sqlite")
    host = ServerHost.from_settings("simic", settings)
    keyring = Keyring.load(settings.keyring_file)
    instruments = Instruments(host.registry)
    bus = BusClient(settings.peer("oona"), "simic", keyring, instruments=instruments)
    oona = open_channel(settings.peer("oona"), TokenSource(keyring, "simic"), "simic", tls_from_environment())

    host.add(
        LearnerServicer(replay),
        simic_pb2_grpc.add_LearnerServicer_to_server,
        SERVICE,
        read_only_methods=("GetReplay", "GetTraining", "WatchTraining", "ListPolicies"),
        validate_requests=True,
    )
    host.watch_dependency("oona", health_probe(oona, peer="oona"))
    host.run_in_background("field reports", ReportIngest(bus, replay, instruments).run)
    host.on_shutdown(oona.close)
    host.on_shutdown(bus.close)
    await host.run_until_stopped()


def main() -> int:
    return run_service("simic", SimicSettings, serve)


if __name__ == "__main__":
    sys.exit(main())
