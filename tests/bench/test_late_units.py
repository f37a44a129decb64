"""The plain network that becomes wider: what comes late changes nothing at first, and directions are counted right."""

from __future__ import annotations

import pytest
import torch
from benchmarks.growth import late_units


def test_late_units_answer_with_exact_zeros() -> None:
    assert not late_units._late(4.0, 0.25)(torch.randn(5, 16)).any()


@pytest.mark.parametrize(("outer_CU", "directions"), [(torch.ones(26, 64), 1.0), (torch.eye(26), 26.0)])
def test_directions_count_what_differs(outer_CU: torch.Tensor, directions: float) -> None:
    assert late_units._directions(outer_CU) == pytest.approx(directions, rel=1e-4)


def test_a_short_run_learns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(late_units, "BUDGET", 100_000_000)
    assert late_units.grow(0, 0.1, 4.0, 0.25).accuracy > 20
