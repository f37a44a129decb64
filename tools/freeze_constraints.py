"""Write constraints.txt: the exact version of everything installed beside our own packages."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
TARGET = REPOSITORY / "constraints.txt"
HEAD = "# Exact versions of everything that `make setup` installs. Written by `make constraints`.\n"

# A build tag such as +cpu names one package index; without it the pin holds for every build of that version.
_BUILD_TAG = re.compile(r"\+[\w.]+$")


def main() -> int:
    """Freeze the environment of the running interpreter."""
    command = [sys.executable, "-m", "pip", "freeze", "--exclude-editable"]
    frozen = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    pins = pins_of(frozen)
    TARGET.write_text(HEAD + "".join(f"{pin}\n" for pin in pins))
    print(f"{len(pins)} pins written to {TARGET.name}")
    return 0


def pins_of(frozen: str) -> list[str]:
    """Return the ``name==version`` lines of a freeze, without ours and without build tags."""
    lines = (line.strip() for line in frozen.splitlines())
    return [_BUILD_TAG.sub("", line) for line in lines if "==" in line and not line.startswith("esper-")]


if __name__ == "__main__":
    raise SystemExit(main())
