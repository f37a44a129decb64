"""What a step costs on the present topology: all its passes through the model, and the teacher's."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from esper_runtime.counterfactual import left_out
from esper_runtime.host import Host
from tolaria.training.flops import StepCost

if TYPE_CHECKING:
    # Only for annotations: a session asks here for its own cost.
    from tolaria.training.session import Session


def step_cost(session: Session) -> StepCost:
    """Count the FLOPs of all passes of a session's next step, on the model as it is before compiling.

    Raises
    ------
    Exception
        Whatever the model raises when it runs.
    """
    if session.compiled is None:
        return _counted(session)
    with session.compiled.paused():
        return _counted(session)


def _counted(session: Session) -> StepCost:
    host, meter, teacher = session.host, session.meter, session.asked_teacher
    key = topology_key(host)
    # Where the teacher's loss meets the host's, each has a backward pass, and in shadow a pass of its own.
    times = 2 if teacher is not None and session.losses_apart > 1 else 1
    cost = meter.cost(key, host.model)
    total = cost.step + (times - 1) * cost.backward
    for seed_id in session.shadowed:
        with host.shadow(seed_id):
            total += times * meter.cost(f"{key};shadow of {seed_id}", host.model).step
    for seed_id in session.contested:
        with left_out(host, seed_id):
            total += meter.cost(f"{key};without {seed_id}", host.model).step
    if teacher is not None:
        total += meter.teacher_cost(teacher.teacher_id, teacher.teacher)
    return replace(cost, step=total)


def topology_key(host: Host) -> str:
    """Return a text that is the same exactly where a step costs the same: grafts, their stages and isolation."""
    return ";".join(f"{seed.seed_id},{seed.stage},{seed.isolation}" for seed in host.seeds())
