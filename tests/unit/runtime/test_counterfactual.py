"""The counterfactual probe: paired, honest about its error, and without a trace."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper_core.errors import DependencyViolationError, ValidationError
from esper_runtime import Host, add_seed_group, probe, stages
from esper_runtime.counterfactual import left_out
from support.growth import SEED, batch, equal_bits, grow, shake, state_of, tiny_host, train


def losses(model: nn.Module, held_out: tuple[Tensor, Tensor]) -> Tensor:
    return F.cross_entropy(model(held_out[0]), held_out[1], reduction="none")


def test_a_probe_leaves_no_trace() -> None:
    host = tiny_host()
    shake(grow(host))
    host.set_stage(SEED, stages.TRAINING, alpha=0.3)
    before, random_state, alpha = state_of(host), torch.get_rng_state(), host.graft(SEED).alpha
    modes_before = [module.training for module in host.model.modules()]
    contribution = probe(host, SEED, [batch(1), batch(2)], losses)
    assert contribution.examples == 64 and contribution.alpha == 0.3
    assert equal_bits(state_of(host), before) and torch.equal(torch.get_rng_state(), random_state)
    assert [module.training for module in host.model.modules()] == modes_before
    assert host.graft(SEED).alpha is alpha and not any(m._forward_hooks for m in host.model.modules())


def test_a_seed_without_effect_contributes_exactly_nothing() -> None:
    host = tiny_host()
    grow(host)
    contribution = probe(host, SEED, [batch()], losses, alpha=1.0)
    assert (contribution.mean, contribution.low, contribution.high, contribution.output_ratio) == (0, 0, 0, 0)


def test_the_numbers_are_those_of_the_paired_difference() -> None:
    host = tiny_host()
    shake(grow(host))
    host.set_stage(SEED, stages.SHADOWING)
    contribution = probe(host, SEED, [batch()], losses)
    host.model.eval()
    with torch.no_grad():
        with_seed = losses(host.model, batch()).double()
        host.cull(SEED)
        without = losses(host.model, batch()).double()
    difference = without - with_seed
    assert contribution.mean == pytest.approx(float(difference.mean()))
    assert contribution.standard_error == pytest.approx(float(difference.std() / 32**0.5))
    assert contribution.low < contribution.mean < contribution.high
    assert contribution.high - contribution.mean == pytest.approx(1.96 * contribution.standard_error, rel=1e-3)


def test_a_seed_that_learned_helps() -> None:
    host = tiny_host()
    optimizer = torch.optim.Adam(host.model.parameters(), lr=0.01)
    grow(host)
    add_seed_group(host, optimizer, SEED)
    host.set_stage(SEED, stages.TRAINING)
    train(host, optimizer, 60)
    contribution = probe(host, SEED, [batch(seed) for seed in range(500, 516)], losses)
    assert contribution.low > 0 and contribution.finite and contribution.output_ratio > 0


def test_small_samples_get_wide_intervals() -> None:
    host = tiny_host()
    shake(grow(host))
    few = probe(host, SEED, [batch(size=4)], losses, alpha=1.0)
    assert few.high - few.mean == pytest.approx(3.182 * few.standard_error)
    one = probe(host, SEED, [batch(size=1)], losses, alpha=1.0)
    assert one.low == float("-inf") and one.high == float("inf")


def test_a_sick_seed_is_told() -> None:
    host = tiny_host()
    seed = grow(host)
    with torch.no_grad():
        seed.outer.bias.fill_(float("nan"))
    assert not probe(host, SEED, [batch()], losses, alpha=1.0).finite


def test_missing_batches_and_reduced_losses_are_refused() -> None:
    host = tiny_host()
    grow(host)
    with pytest.raises(DependencyViolationError):
        probe(host, SEED, [], losses)
    with pytest.raises(ValidationError):
        probe(host, SEED, [batch()], lambda model, held: losses(model, held).mean())


def gradients(host: Host) -> dict[str, Tensor]:
    return {found.name: found.tensor.grad for found in host.named_parameters() if found.tensor.grad is not None}


def test_a_seed_that_is_left_out_leaves_the_host_the_gradients_that_it_would_have_alone() -> None:
    host, alone = tiny_host(), tiny_host()
    shake(grow(host))
    host.set_stage(SEED, stages.BLENDING)
    host.graft(SEED).set_alpha(0.7)
    before, random_state, alpha = state_of(host), torch.get_rng_state(), host.graft(SEED).alpha
    with left_out(host, SEED):
        losses(host.model, batch()).mean().backward()
    assert equal_bits(state_of(host), before) and torch.equal(torch.get_rng_state(), random_state)
    assert host.graft(SEED).alpha is alpha and host.graft(SEED).route == "live"
    losses(alone.model, batch()).mean().backward()
    assert equal_bits(gradients(host), gradients(alone))


def test_a_pass_that_fails_puts_the_seed_back() -> None:
    host = tiny_host()
    grow(host)
    host.set_stage(SEED, stages.BLENDING)
    with pytest.raises(RuntimeError), left_out(host, SEED):
        raise RuntimeError("out of memory")
    assert host.graft(SEED).route == "live"
