"""Start-up of Weatherlight."""

from __future__ import annotations

import sys

from esper_core.clocks import SYSTEM_CLOCK
from esper_core.pb.esper.weatherlight.v1 import weatherlight_pb2_grpc
from esper_core.rpc import ServerHost, run_service
from weatherlight.servicer import OrchestratorServicer
from weatherlight.settings import WeatherlightSettings
from weatherlight.wiring import Wiring

SERVICE = "esper.weatherlight.v1.Orchestrator"


async def serve(settings: WeatherlightSettings) -> None:
    host = ServerHost.from_settings("weatherlight", settings)
    wiring = Wiring.of(settings, SYSTEM_CLOCK)
    host.add(
        OrchestratorServicer(wiring.orchestrator),
        weatherlight_pb2_grpc.add_OrchestratorServicer_to_server,
        SERVICE,
        read_only_methods=("GetSystem", "WatchSystem"),
    )
    for name, work in wiring.background():
        host.run_in_background(name, work)
    try:
        await host.run_until_stopped()
    finally:
        # Not a shutdown hook: stopping a whole stack may take longer than a hook is given.
        await wiring.close()


def main() -> int:
    return run_service("weatherlight", WeatherlightSettings, serve)


if __name__ == "__main__":
    sys.exit(main())
