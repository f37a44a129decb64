"""Start-up of Kasmina."""

from __future__ import annotations

import sys

from esper_core.rpc import run_service
from kasmina.service import serve
from kasmina.settings import KasminaSettings


def main() -> int:
    return run_service("kasmina", KasminaSettings, serve)


if __name__ == "__main__":
    sys.exit(main())
