"""Seeds that do not help, or harm, leave the model as it was."""

from __future__ import annotations

import pytest
import torch

from esper_core.errors import QuarantinedError
from esper_runtime import GrowthStep, Session
from esper_runtime.own_loop import Rules
from support.growing_session import PACE, STEPS, loss_of, moments, run, session_on, told
from support.growth import equal_bits, state_of, tiny_model


@pytest.mark.parametrize(
    ("value", "reason"), [(0.0, "cannot be told from nothing"), (30.0, "held-out loss"), (float("nan"), "not finite")]
)
def test_a_useless_or_harmful_seed_is_culled_and_the_host_is_what_it_was(value: float, reason: str) -> None:
    model = tiny_model()
    original = model.body
    session = session_on(model)
    run(session, 0, 19)
    session.optimizer.zero_grad()
    loss = loss_of(model, 19)
    loss.backward()  # type: ignore[no-untyped-call]
    assert session.check(loss)
    session.optimizer.step()
    before, kept = state_of(session.host), moments(session.optimizer)
    session.advance()
    step = 20
    while told(session)[-1] != "culled" and step <= 20 + PACE.life:
        _tamper(session, value)
        run(session, step, step + 1)
        step += 1
    assert told(session)[-1] == "culled" and reason in session.history[-1].sentence
    assert equal_bits(state_of(session.host), before) and model.body is original
    found = moments(session.optimizer)
    assert found.keys() == kept.keys() and all(torch.equal(value, found[key]) for key, value in kept.items())
    assert len(session.optimizer.param_groups) == 1
    assert all(parameter.requires_grad for parameter in model.parameters())
    run(session, step, step + 3)


def _tamper(session: Session, value: float) -> None:
    """Give a seed one value everywhere and keep it from learning better."""
    with torch.no_grad():
        for parameter in session.host.graft("hidden/1").seed.parameters():
            parameter.fill_(value)
            parameter.register_hook(torch.zeros_like)


@pytest.mark.parametrize("blueprint", ["nan_injection.v1", "toxic_weights.v1"])
def test_a_drill_with_a_fixture_leaves_the_model_unharmed(blueprint: str) -> None:
    plan = (GrowthStep(0.2, "hidden", blueprint, {"scale": 64.0, "expansion": 0.8} if "toxic" in blueprint else {}),)
    with pytest.raises(QuarantinedError):
        session_on(tiny_model(), plan)
    session = session_on(tiny_model(), plan, rules=Rules(PACE, drill=True))
    run(session, 0, STEPS)
    assert told(session)[-1] == "culled" and not session.host.seeds()
    assert all(torch.isfinite(parameter).all() for parameter in session.host.model.parameters())
