"""Start-up of Tolaria."""

from __future__ import annotations

import sys

from esper_core.rpc import run_service
from tolaria.service.wiring import Wiring
from tolaria.settings import TolariaSettings


async def serve(settings: TolariaSettings) -> None:
    await Wiring.of(settings).serve()


def main() -> int:
    return run_service("tolaria", TolariaSettings, serve)


if __name__ == "__main__":
    sys.exit(main())
