"""Start-up of Urabrask."""

from __future__ import annotations

import sys

from esper_core.rpc import run_service
from urabrask.service import NAME, serve
from urabrask.settings import UrabraskSettings


def main() -> int:
    return run_service(NAME, UrabraskSettings, serve)


if __name__ == "__main__":
    sys.exit(main())
