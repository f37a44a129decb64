"""The echo server as a whole service: `python -m support.rpc_service`."""

from __future__ import annotations

import sys

from esper_core.rpc import ServerHost, run_service
from esper_core.settings import Field, ServiceSettings, SettingsConfigDict
from support.rpc_echo import ECHO_SERVICE, EchoServicer, add_echo


class EchoSettings(ServiceSettings):
    """Settings of the echo service."""

    model_config = SettingsConfigDict(env_prefix="ECHO_")

    answer_timeout_ms: int = Field(default=100, description="Time for an answer, in milliseconds.")
    crash: bool = Field(default=False, description="End by an unexpected error, for tests.")


async def serve(settings: EchoSettings) -> None:
    """Wire the service and run it to its end."""
    if settings.crash:
        raise KeyError("crash")
    host = ServerHost.from_settings("echo", settings)
    host.add(EchoServicer(), add_echo, ECHO_SERVICE)
    await host.run_until_stopped()


if __name__ == "__main__":
    sys.exit(run_service("support.rpc_service", EchoSettings, serve))
