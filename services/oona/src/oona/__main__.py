"""Start-up of Oona."""

from __future__ import annotations

import sys

from esper_core.rpc import ServerHost, run_service
from esper_core.security import Keyring
from oona.service import assemble
from oona.settings import OonaSettings


async def serve(settings: OonaSettings) -> None:
    host = ServerHost.from_settings("oona", settings)
    assemble(settings, host, Keyring.load(settings.keyring_file))
    await host.run_until_stopped()


def main() -> int:
    return run_service("oona", OonaSettings, serve)


if __name__ == "__main__":
    sys.exit(main())
