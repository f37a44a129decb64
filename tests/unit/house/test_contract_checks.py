"""The committed bindings are those of the .proto files, and the contracts keep their promises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from support.sources import REPOSITORY

BUF = Path(sys.executable).parent / "buf"


def checked(*command: str | Path) -> None:
    done = subprocess.run([str(part) for part in command], cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.req("LEY-9")
def test_the_bindings_have_not_drifted() -> None:
    checked(sys.executable, "tools/generate_protos.py", "--check")


@pytest.mark.req("LEY-9")
def test_the_contracts_pass_lint() -> None:
    checked(BUF, "lint", "proto")


@pytest.mark.req("LEY-9")
def test_the_contracts_break_nothing_that_was_published() -> None:
    checked(BUF, "breaking", "proto", "--against", "proto/leyline.binpb")


@pytest.mark.req("LEY-9")
def test_drift_is_noticed(tmp_path: Path) -> None:
    sys.path.insert(0, str(REPOSITORY / "tools"))
    try:
        import generate_protos
    finally:
        sys.path.pop(0)
    fresh, committed = tmp_path / "fresh", tmp_path / "committed"
    trees = {fresh: ("same.py", "new.py", "changed.pyi"), committed: ("same.py", "left.py", "changed.pyi")}
    for root, names in trees.items():
        root.mkdir()
        for name in names:
            (root / name).write_text(name if name == "same.py" else root.name)
    assert list(generate_protos.drift(fresh, committed)) == ["changed.pyi", "left.py", "new.py"]
