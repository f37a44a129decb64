"""The `esper` command."""

from __future__ import annotations

import signal
import sys

from esper_cli.app import run


def main() -> int:
    """Run the command line and return the exit status; SIGTERM means what Ctrl-C means."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    return run(sys.argv[1:])


if __name__ == "__main__":
    sys.exit(main())
