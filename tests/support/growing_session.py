"""A session of the plain training loop on the tiny model: its pace, its plan, and a loop around it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper_runtime import GrowthStep, HeldOut, Session
from esper_runtime.own_loop import Pace, Rules
from support.growth import SITES, batch

PACE = Pace(training=4, blending=6, shadowing=2, probationary=2, pulse=2)
RULES = Rules(PACE)
STEPS = 100
PLAN = (GrowthStep(0.2, "hidden", "mlp_residual.v1", {"expansion": 0.8}),)


def losses(model: nn.Module, part: Any) -> Tensor:
    """One loss per example of a held-out part."""
    return F.cross_entropy(model(part[0]), part[1], reduction="none")


HELD_OUT = HeldOut([batch(1000), batch(1001, 512)], losses)


def adam(model: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of every session here."""
    return torch.optim.Adam(model.parameters(), lr=0.02)


def session_on(model: nn.Module, plan: Sequence[GrowthStep] = PLAN, **options: Any) -> Session:
    """A session of STEPS steps."""
    return Session(model, SITES, adam(model), held_out=HELD_OUT, steps=STEPS, plan=plan, **{"rules": RULES, **options})


def loss_of(model: nn.Module, step: int) -> Tensor:
    """The loss of the batch that belongs to a step."""
    x, y = batch(step)
    return F.cross_entropy(model(x), y)


def run(session: Session, first: int, last: int) -> None:
    """Make the steps from `first` up to, not including, `last`."""
    for step in range(first, last):
        session.optimizer.zero_grad()
        loss = loss_of(session.host.model, step)
        loss.backward()  # type: ignore[no-untyped-call]
        session.step(loss)


def moments(optimizer: torch.optim.Optimizer) -> dict[tuple[int, int, str], Tensor]:
    """A copy of the optimizer's state by group, place in the group and name."""
    return {
        (group, index, key): value.clone()
        for group, options in enumerate(optimizer.param_groups)
        for index, parameter in enumerate(options["params"])
        for key, value in optimizer.state.get(parameter, {}).items()
    }


def told(session: Session) -> list[str]:
    """What happened so far, in a word each."""
    return [event.what for event in session.history]
