"""Start-up of Tamiyo."""

from __future__ import annotations

import sys

from esper_core.rpc import run_service
from tamiyo.service import serve
from tamiyo.settings import TamiyoSettings


def main() -> int:
    return run_service("tamiyo", TamiyoSettings, serve)


if __name__ == "__main__":
    sys.exit(main())
