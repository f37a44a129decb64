"""What a session refuses before the first step."""

from __future__ import annotations

import copy

import pytest
import torch

from esper_core.errors import ValidationError
from esper_runtime import GrowthStep, HeldOut, Session
from esper_runtime.errors import UnknownSeedError, UnknownSiteError
from support.growing_session import HELD_OUT, adam, losses, run, session_on
from support.growth import SITES, TinyNet, batch, equal_bits, tiny_model


def test_several_workers_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    with pytest.raises(ValidationError, match="one process"):
        session_on(tiny_model())


def test_a_model_that_carries_seeds_is_refused() -> None:
    session = session_on(tiny_model())
    run(session, 0, 22)
    with pytest.raises(ValidationError, match="resume"):
        session_on(session.host.model)


def test_what_cannot_work_is_refused_before_the_first_step() -> None:
    model = tiny_model()
    before = copy.deepcopy(model.state_dict())
    refused: list[tuple[type[Exception], GrowthStep]] = [
        (UnknownSiteError, GrowthStep(0.1, "nowhere", "norm.v1")),
        (ValidationError, GrowthStep(0.95, "hidden", "norm.v1")),
        (ValidationError, GrowthStep(-0.1, "hidden", "norm.v1")),
        (ValidationError, GrowthStep(0.1, "hidden", "conv2d_residual.v1")),
        (ValidationError, GrowthStep(0.1, "hidden", "norm.v1", {"size": 3})),
    ]
    for error, planned in refused:
        with pytest.raises(error):
            session_on(model, [planned])
    with pytest.raises(ValidationError, match="cannot work"):
        session_on(model, [GrowthStep(0.3, "hidden", "norm.v1"), GrowthStep(0.1, "hidden", "norm.v1")])
    with pytest.raises(ValidationError, match="smaller steps"):
        session_on(TinyNet(40), [GrowthStep(0.1, "hidden", "mlp_residual.v1", {"expansion": 4.0})])
    with pytest.raises(ValidationError, match="only once"):
        HeldOut(iter([batch()]), losses)
    with pytest.raises(ValidationError, match="no held-out"):
        HeldOut([], losses).first()
    with pytest.raises(ValidationError, match="compiled"):
        session_on(torch.compile(tiny_model(), backend="eager"))  # type: ignore[arg-type]
    with pytest.raises(ValidationError, match="budget"):
        Session(model, SITES, adam(model), held_out=HELD_OUT, steps=0, plan=())
    with pytest.raises(UnknownSeedError):
        session_on(model).explain("hidden/1")
    assert equal_bits(model.state_dict(), before)
