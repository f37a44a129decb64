"""Blending: bounds, exact ends, nothing in place, typed refusals."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from esper_runtime import AlphaRamp, BlendSpec, SiteContract, blend_from_message, blend_to_message, modes
from esper_runtime.blend_summary import summarise_blend
from esper_runtime.blending import channel, confidence, convex, residual, straight_through
from esper_runtime.errors import BlendError, MissingLogitsError
from esper_runtime.graft import Graft

Blend = Callable[[Tensor, Tensor, Tensor], Tensor]
GATED = BlendSpec(modes.CONFIDENCE, gate_k=4.0, gate_tau=0.5, alpha_lo=0.1, alpha_hi=0.9)
VECTOR = torch.tensor([0.0, 0.25, 1.0])


def gated(h: Tensor, s: Tensor, alpha: Tensor) -> Tensor:
    return confidence(h, s, alpha, GATED, torch.linspace(-2, 2, h.shape[0] * 3).reshape(h.shape[0], 3))


BLENDS: dict[str, Blend] = {
    "convex": convex,
    "residual": residual,
    "channel": lambda h, s, alpha: channel(h, s, alpha, VECTOR, -1),
    "confidence": gated,
}
alphas = st.floats(-3.0, 4.0, allow_nan=False)
seeds = st.integers(0, 2**31)


def pair(seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(5, 3, generator=generator), torch.randn(5, 3, generator=generator)


@pytest.mark.parametrize("name", BLENDS)
@given(seed=seeds, alpha=alphas)
@settings(max_examples=40, deadline=None)
def test_a_blend_stays_between_host_and_full_seed(name: str, seed: int, alpha: float) -> None:
    h, s = pair(seed)
    full = h + s if name == "residual" else s
    blended = BLENDS[name](h, s, torch.tensor(alpha))
    assert torch.all(blended >= torch.minimum(h, full) - 1e-5)
    assert torch.all(blended <= torch.maximum(h, full) + 1e-5)


@pytest.mark.req("KAS-1")
@pytest.mark.parametrize("name", BLENDS)
@given(seed=seeds, alpha=alphas)
@settings(max_examples=25, deadline=None)
def test_a_blend_mutates_none_of_its_inputs(name: str, seed: int, alpha: float) -> None:
    h, s = pair(seed)
    strength = torch.tensor(alpha)
    before = [tensor.clone() for tensor in (h, s, strength)]
    versions = [tensor._version for tensor in (h, s, strength)]
    BLENDS[name](h, s, strength)
    assert all(torch.equal(now, then) for now, then in zip((h, s, strength), before, strict=True))
    assert [tensor._version for tensor in (h, s, strength)] == versions


@pytest.mark.parametrize(("alpha", "ends_at"), [(0.0, "h"), (-1.0, "h"), (1.0, "s"), (7.0, "s")])
def test_convex_is_exact_at_its_ends_and_clamps(alpha: float, ends_at: str) -> None:
    h, s = pair(1)
    assert torch.equal(convex(h, s, torch.tensor(alpha)), h if ends_at == "h" else s)


@given(alpha=st.floats(0, 1), seed=seeds)
@settings(max_examples=25, deadline=None)
def test_convex_of_the_identity_is_the_identity(alpha: float, seed: int) -> None:
    h, _ = pair(seed)
    assert torch.equal(convex(h, h.clone(), torch.tensor(alpha)), h)


@pytest.mark.parametrize("name", BLENDS)
def test_gradients_are_right(name: str) -> None:
    h, s = (tensor.double().requires_grad_() for tensor in pair(2))
    alpha = torch.tensor(0.3, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda a, b: BLENDS[name](a, b, alpha), (h, s))


def test_straight_through_forwards_the_host_and_feeds_the_seed() -> None:
    h, s = (tensor.requires_grad_() for tensor in pair(3))
    joined = straight_through(h, s, torch.tensor(0.5))
    joined.backward(torch.ones_like(joined))  # type: ignore[no-untyped-call]
    assert torch.equal(joined, h) and h.grad is not None and s.grad is not None
    assert torch.equal(h.grad, torch.ones_like(h)) and torch.equal(s.grad, torch.full_like(s, 0.5))


def test_straight_through_keeps_a_sick_seed_out_of_the_forward_pass() -> None:
    h, _ = pair(4)
    assert torch.equal(straight_through(h, torch.full_like(h, float("nan")), torch.tensor(1.0)), h)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"mode": 0}, "mode"),
        ({"mode": 9}, "mode"),
        ({"schedule": 0}, "schedule"),
        ({"target_alpha": 0.0}, "target_alpha"),
        ({"target_alpha": 1.5}, "target_alpha"),
        ({"target_alpha": float("nan")}, "target_alpha"),
        ({"mode": modes.CHANNEL}, "alpha_vec"),
        ({"mode": modes.CHANNEL, "alpha_vec": (0.5,) * 65}, "alpha_vec"),
        ({"mode": modes.CHANNEL, "alpha_vec": (0.5, 1.5)}, "alpha_vec[1]"),
        ({"mode": modes.CONVEX, "alpha_vec": (0.5,)}, "alpha_vec"),
        ({"mode": modes.CONFIDENCE, "gate_k": 1.0}, "gate_tau"),
        ({"mode": modes.CONFIDENCE, "gate_k": 1.0, "gate_tau": 0.0, "alpha_lo": 0.0}, "alpha_hi"),
        ({"mode": modes.RESIDUAL, "alpha_lo": 0.0}, "alpha_lo"),
        ({"mode": modes.CONFIDENCE, "gate_k": 0.0, "gate_tau": 0.0, "alpha_lo": 0.0, "alpha_hi": 1.0}, "gate_k"),
        ({"mode": modes.RESIDUAL, "gate_k": 1.0, "gate_tau": 0.0}, "gate_k"),
        ({"mode": modes.CONFIDENCE, "gate_k": 1.0, "gate_tau": 0.0, "alpha_lo": 0.9, "alpha_hi": 0.1}, "alpha_lo"),
    ],
)
def test_a_bad_setting_is_named_with_what_is_allowed(fields: dict[str, object], named: str) -> None:
    with pytest.raises(BlendError) as refusal:
        BlendSpec(**fields)  # type: ignore[arg-type]
    assert refusal.value.field == named and refusal.value.allowed


@pytest.mark.req("KAS-2")
@pytest.mark.parametrize("entries", [0, 65])
def test_channel_needs_a_vector_of_at_most_64_factors(entries: int) -> None:
    with pytest.raises(BlendError, match="at most 64"):
        BlendSpec(modes.CHANNEL, alpha_vec=(0.5,) * entries)


@pytest.mark.req("KAS-2")
def test_a_vector_must_match_the_channels() -> None:
    spec = BlendSpec(modes.CHANNEL, alpha_vec=(0.1, 0.2))
    spec.check_contract(SiteContract("features", 2))
    with pytest.raises(BlendError, match="2 entries"):
        spec.check_contract(SiteContract("features", 3))


@pytest.mark.req("KAS-3")
def test_confidence_needs_the_policys_logits() -> None:
    h, s = pair(5)
    with pytest.raises(MissingLogitsError):
        confidence(h, s, torch.tensor(1.0), GATED, None)


@pytest.mark.req("KAS-3")
def test_confidence_refuses_logits_of_another_batch_and_gives_them_no_gradient() -> None:
    h, s = pair(5)
    logits = torch.randn(5, 3, requires_grad=True)
    assert not confidence(h, s, torch.tensor(1.0), GATED, logits).requires_grad
    for strange in (torch.randn(4, 3), torch.randn(1, 3), torch.randn(5, 1), torch.randn(5)):
        with pytest.raises(BlendError) as refusal:
            confidence(h, s, torch.tensor(1.0), GATED, strange)
        assert refusal.value.field == "confidence_logits"


@pytest.mark.req("KAS-21")
@pytest.mark.parametrize("spec", [BlendSpec(), GATED, BlendSpec(modes.CHANNEL, 0.5, alpha_vec=(0.5, 1.0))])
def test_settings_survive_their_message_and_their_dictionary(spec: BlendSpec) -> None:
    assert blend_from_message(blend_to_message(spec)) == spec
    assert BlendSpec.from_dict(spec.to_dict()) == spec


def live_graft(spec: BlendSpec, alpha: float) -> Graft:
    contract = SiteContract("features", 4)
    graft = Graft(nn.Identity(), nn.Identity(), seed_id="s", site="x", contract=contract, blend=spec)
    graft.route = "live"
    graft.set_alpha(alpha)
    return graft


@pytest.mark.req("KAS-15")
def test_the_summary_of_a_blend_is_what_its_channels_and_samples_get() -> None:
    plain = summarise_blend(live_graft(BlendSpec(), 0.04))
    assert plain is not None and plain.sparsity == 1.0 and plain.alpha_mean == plain.alpha_p95 == pytest.approx(0.04)
    vector = summarise_blend(live_graft(BlendSpec(modes.CHANNEL, alpha_vec=(0.0, 0.5, 1.0, 0.02)), 0.5))
    assert vector is not None and vector.alpha_mean == pytest.approx(0.19) and vector.sparsity == 0.5
    assert vector.alpha_p95 == pytest.approx(0.4625) and vector.gate_mean is None
    graft = live_graft(GATED, 1.0)
    assert summarise_blend(graft) is None
    graft.logits_BK = torch.tensor([[9.0, 0.0], [0.5, 0.0], [0.0, 0.0], [0.0, 9.0]])
    gated = summarise_blend(graft)
    assert gated is not None and gated.gate_mean == pytest.approx((2 + 0.5 + 0.1192) / 4, abs=1e-3)
    assert gated.alpha_mean == pytest.approx((0.9 + 0.5 + 0.1192 + 0.9) / 4, abs=1e-3)


@given(alpha=st.floats(0, 1), vector=st.lists(st.floats(0, 1), min_size=4, max_size=4))
@settings(max_examples=20, deadline=None)
def test_a_summary_stays_within_its_bounds(alpha: float, vector: list[float]) -> None:
    found = summarise_blend(live_graft(BlendSpec(modes.CHANNEL, alpha_vec=tuple(vector)), alpha))
    assert found is not None and 0.0 <= found.alpha_mean <= 1.0 and 0.0 <= found.sparsity <= 1.0
    assert min(vector) * alpha - 1e-6 <= found.alpha_p95 <= max(vector) * alpha + 1e-6


def test_a_seed_that_does_not_act_has_no_summary() -> None:
    graft = live_graft(BlendSpec(), 1.0)
    graft.route = "bypass"
    assert summarise_blend(graft) is None


@given(
    start=st.integers(0, 50),
    length=st.integers(0, 50),
    initial=st.floats(0, 1),
    target=st.floats(0, 1),
    schedule=st.sampled_from(sorted(modes.ALPHA_SCHEDULES)),
)
@settings(max_examples=60, deadline=None)
def test_a_ramp_is_monotone_bounded_and_exact_at_its_ends(
    start: int, length: int, initial: float, target: float, schedule: int
) -> None:
    ramp = AlphaRamp(start, start + length, target, initial, schedule)
    values = [ramp.value(step) for step in range(start, start + length + 2)]
    assert values[-1] == target and (length == 0 or values[0] == initial)
    assert all(min(initial, target) <= value <= max(initial, target) for value in values)
    assert values == sorted(values, reverse=target < initial)


def test_a_linear_ramp_moves_in_equal_steps() -> None:
    ramp = AlphaRamp(10, 14, 1.0)
    assert [ramp.value(step) for step in range(9, 16)] == [0.0, 0.0, 0.25, 0.5, 0.75, 1.0, 1.0]
