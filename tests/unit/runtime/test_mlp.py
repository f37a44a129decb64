"""The two layers of a seed: nothing at the start, and a step of Adam that does not grow with the width."""

from __future__ import annotations

import pytest
import torch

from esper_runtime.blueprints.mlp import TwoLayers


def two_layers(hidden: int) -> TwoLayers:
    layers = TwoLayers(16, 8, hidden, "relu")
    layers.initialise(torch.Generator().manual_seed(hidden))
    return layers


def moved_by_a_step(hidden: int) -> float:
    """Return how far one step of Adam moves the answer to inputs of unit size."""
    layers, x = two_layers(hidden), torch.randn(256, 16, generator=torch.Generator().manual_seed(1))
    optimizer = torch.optim.Adam(layers.parameters(), lr=0.01)
    layers.delta(x).sum().backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    return float(layers.delta(x).detach().abs().mean())


@pytest.mark.parametrize("hidden", [1, 24, 48, 400])
def test_the_answer_begins_as_exact_zeros(hidden: int) -> None:
    assert not two_layers(hidden).delta(torch.randn(4, 16)).any()


def test_a_step_moves_a_wide_layers_answer_no_further_than_a_narrow_ones() -> None:
    assert moved_by_a_step(768) == pytest.approx(moved_by_a_step(48), rel=0.25)


def test_a_very_narrow_layer_is_scaled_no_more_than_twice() -> None:
    assert two_layers(1).scale == two_layers(24).scale == 2.0
