"""The measurement of rollbacks runs to its report; what it measures here means nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from benchmarks import rollback


def test_both_tiers_and_the_stall_are_measured(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert rollback.main(["--quick", "--json", "--out", str(tmp_path)]) == 0
    report = json.loads(capsys.readouterr().out)
    (found,) = report["figures"].values()
    assert 0 < found["fast"]["share_of_deadline"] < 1 and 0 < found["full"]["share_of_deadline"] < 1
    assert found["fast"]["ratio"] > 0 and found["stall"]["blocked_steps"] > 0
    page = (tmp_path / "rollback.md").read_text()
    assert "## Method" in page and "## Machine and commit" in page
