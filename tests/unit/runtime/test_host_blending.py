"""Alpha and blend modes in a host: ramps that can be held, no effect at first, and no retracing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from esper_runtime import BlendSpec, modes, stages
from esper_runtime.errors import MissingLogitsError
from support.growth import SEED, batch, grow, shake, tiny_host

EXTRA: dict[int, dict[str, object]] = {
    modes.CHANNEL: {"alpha_vec": (0.5,) * 10},
    modes.CONFIDENCE: {"gate_k": 2.0, "gate_tau": 0.0, "alpha_lo": 0.1, "alpha_hi": 1.0},
}


@pytest.mark.parametrize("mode", [modes.RESIDUAL, modes.CONVEX])
def test_a_fresh_seed_changes_nothing_at_full_alpha(mode: int) -> None:
    host = tiny_host()
    host.model.eval()
    x, _ = batch()
    expected = host.model(x)
    grow(host, blend=BlendSpec(mode))
    host.set_stage(SEED, stages.SHADOWING)
    assert host.seed(SEED).alpha == 1.0 and torch.equal(host.model(x), expected)


def test_alpha_ramps_over_steps_and_can_be_held() -> None:
    host = tiny_host()
    grow(host)
    host.set_stage(SEED, stages.TRAINING, isolation=stages.STRAIGHT_THROUGH)
    host.set_stage(SEED, stages.BLENDING)
    host.set_blend(SEED, BlendSpec(target_alpha=0.8), start_step=10, end_step=14)
    seen = []
    for step in range(10, 20):
        if step in (12, 15):
            host.hold_alpha(SEED, held=step == 12)
        host.advance(step)
        seen.append(round(host.seed(SEED).alpha, 6))
    assert seen == [0.0, 0.2, 0.2, 0.2, 0.2, 0.4, 0.6, 0.8, 0.8, 0.8]
    assert float(host.graft(SEED).alpha) == pytest.approx(0.8)


def test_a_ramp_may_be_set_before_its_stage() -> None:
    host = tiny_host()
    grow(host)
    host.set_stage(SEED, stages.TRAINING, isolation=stages.SHADOW)
    host.set_blend(SEED, BlendSpec(), start_step=0, end_step=4)
    host.advance(2)
    assert host.seed(SEED).alpha == 1.0
    host.set_stage(SEED, stages.BLENDING)
    host.advance(2)
    assert host.seed(SEED).alpha == 0.5


@pytest.mark.req("KAS-1")
def test_a_pending_backward_pass_keeps_its_alpha() -> None:
    host = tiny_host()
    seed = grow(host)
    host.set_stage(SEED, stages.TRAINING, alpha=0.5)
    loss = host.model(batch()[0]).sum()
    host.graft(SEED).set_alpha(0.0)
    loss.backward()
    assert seed.outer.bias.grad is not None and bool(seed.outer.bias.grad.abs().sum() > 0)


@pytest.mark.parametrize("mode", sorted(modes.BLEND_MODES))
def test_every_mode_blends_in_the_forward_pass(mode: int) -> None:
    host = tiny_host()
    host.model.eval()
    x, _ = batch()
    plain = host.model(x)
    seed = grow(host, blend=BlendSpec(mode, **EXTRA.get(mode, {})))  # type: ignore[arg-type]
    shake(seed)
    host.set_stage(SEED, stages.SHADOWING)
    host.set_confidence_logits(SEED, plain.detach())
    assert host.model(x).shape == plain.shape and not torch.equal(host.model(x), plain)


@pytest.mark.req("KAS-3")
def test_the_logits_of_a_former_step_gate_nothing() -> None:
    host = tiny_host()
    grow(host, blend=BlendSpec(modes.CONFIDENCE, **EXTRA[modes.CONFIDENCE]))  # type: ignore[arg-type]
    host.set_stage(SEED, stages.SHADOWING)
    x, _ = batch()
    host.advance(1)
    host.set_confidence_logits(SEED, torch.zeros(len(x), 3))
    host.model(x)
    host.advance(1)
    host.model(x)
    host.advance(2)
    with pytest.raises(MissingLogitsError):
        host.model(x)


@pytest.mark.req("KAS-1")
@pytest.mark.parametrize("mode", sorted(modes.BLEND_MODES))
def test_a_thousand_alpha_changes_never_retrace(mode: int) -> None:
    torch._dynamo.reset()
    frames = 0

    def count(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> object:
        nonlocal frames
        frames += 1
        return graph.forward

    host = tiny_host()
    host.model.eval()
    shake(grow(host, blend=BlendSpec(mode, **EXTRA.get(mode, {}))))  # type: ignore[arg-type]
    x, _ = batch(size=4)
    host.set_confidence_logits(SEED, host.model(x).detach())
    host.set_stage(SEED, stages.BLENDING)
    compiled = torch.compile(host.model, backend=count)
    with torch.no_grad():
        compiled(x)
        first = frames
        for step in range(1000):
            host.graft(SEED).set_alpha(step / 1000)
            blended = compiled(x)
            assert step % 100 or torch.allclose(blended, host.model(x), atol=1e-6)
    assert frames == first
