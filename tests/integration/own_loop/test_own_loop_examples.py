"""The plain example runs as it stands in the repository."""

from __future__ import annotations

import subprocess
import sys

from support.sources import REPOSITORY


def test_the_plain_example_grows_and_tells() -> None:
    example = REPOSITORY / "examples" / "plain_loop.py"
    done = subprocess.run([sys.executable, example, "400"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("steps: 400, seeds kept: 1, culled: 0, rollbacks: 0"), done.stdout
    assert "fossilised" in done.stdout and "test accuracy 0." in done.stdout


def test_the_plain_example_adds_five_lines() -> None:
    lines = (REPOSITORY / "examples" / "plain_loop.py").read_text().splitlines()
    ours = [line for line in lines if any(word in line for word in ("GrowthStep", "HeldOut", "Session", "session."))]
    marked = [line for line in lines if "  # " in line]
    assert len(marked) == 5 and [line for line in ours if line not in marked] == ["    print(session.explain())"]
