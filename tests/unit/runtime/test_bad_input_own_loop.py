"""What bad input gets in the user's own loop: refused, skipped or culled, told, and the model as it was or as left."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper_core.errors import EsperError
from esper_runtime import GrowthStep, HeldOut, Session
from esper_runtime.errors import TopologyMismatchError, UnknownSiteError
from esper_runtime.own_loop import Rules
from esper_runtime.snapshot import capture
from support.growing_session import PACE, losses, run, told
from support.growth import SITES, batch, equal_bits, state_of, tiny_model

SMALL = {"expansion": 0.8}
PLAN = (GrowthStep(0.2, "deep", "mlp_residual.v1", SMALL),)
AT = 20


def session_on(model: nn.Module, held_out: Any = losses, sites: Sequence[Any] = SITES, **options: Any) -> Session:
    chosen = {"plan": PLAN, "steps": 100, "rules": Rules(PACE), **options}
    data = HeldOut([batch(1000), batch(1001, 512)], held_out)
    return Session(model, sites, torch.optim.Adam(model.parameters(), lr=0.02), held_out=data, **chosen)


def everything(session: Session) -> dict[str, Tensor]:
    """Weights, buffers, moments and random state."""
    held = capture(session.host, step=0, optimizer=session.optimizer)
    assert held.optimizer is not None
    moments = {f"{key}/{name}": t for name, kept in held.optimizer.tensors.items() for key, t in kept.items()}
    return {**held.parameters, **held.buffers, **moments, "random": held.random.torch_cpu}


def test_a_site_that_is_gone_when_its_seed_is_due_is_skipped_and_told() -> None:
    session = session_on(tiny_model())
    model: Any = session.host.model
    run(session, 0, AT - 1)
    model.moved = model.middle
    del model.middle
    model.forward = lambda x: model.head(F.relu(model.moved(model.body(x))))
    run(session, AT - 1, AT + 10)
    assert told(session) == ["skipped"] and "'middle'" in session.history[0].sentence
    assert not session.host.seeds()


def test_a_parameter_that_left_the_model_and_not_the_optimizer_is_named_as_such() -> None:
    session = session_on(tiny_model())
    run(session, 0, 5)
    session.host.model.middle = nn.Identity()
    with pytest.raises(TopologyMismatchError, match="out of the optimizer as well"):
        run(session, 5, 7)


def test_a_seed_that_other_code_takes_out_is_settled_and_the_rest_of_the_plan_goes_on() -> None:
    session = session_on(tiny_model(), plan=(*PLAN, GrowthStep(0.5, "hidden", "mlp_residual.v1", SMALL)))
    run(session, 0, AT + 6)
    (record,) = session.host.seeds()
    assert told(session)[-1] == "blending"
    session.host.model.middle = session.host.graft(record.seed_id).host
    run(session, AT + 6, AT + 7)
    assert told(session)[-1] == "culled" and "Other code has taken the seed out" in session.history[-1].sentence
    assert len(session.optimizer.param_groups) == 1 and not session.host.seeds()
    run(session, AT + 7, 100)
    session.finish()
    assert told(session).count("germinated") == 2 and told(session)[-1] in ("fossilised", "culled")


def test_a_loss_that_does_not_see_the_site_grows_nothing_there() -> None:
    def blind(model: nn.Module, part: Any) -> Tensor:
        return F.cross_entropy(model.head(F.relu(model.body(part[0]))), part[1], reduction="none") + model.middle(
            model.body(part[0])
        ).sum(1).mul(0.0)

    session, bare = session_on(tiny_model(), blind), session_on(tiny_model(), blind, plan=())
    for one in (session, bare):
        torch.manual_seed(1)
        run(one, 0, AT + 10)
        one.finish()
    assert told(session) == ["skipped"] and "does not depend" in session.history[0].sentence
    assert equal_bits(state_of(session.host), state_of(bare.host))


def test_a_host_that_other_code_sets_moving_costs_the_seed_and_goes_back_to_germination() -> None:
    session = session_on(tiny_model())
    run(session, 0, AT)
    before = state_of(session.host)
    session.host.model.head.weight.requires_grad_(True)
    run(session, AT, AT + 1)
    assert told(session)[-1] == "culled" and "got gradients from other code" in session.history[-1].sentence
    assert not session.host.seeds() and equal_bits(
        state_of(session.host), {name: before[name] for name in before if not name.startswith("seed:")}
    )
    run(session, AT + 1, AT + 5)


@pytest.mark.parametrize(
    ("width", "sites", "error"), [(12, SITES, TopologyMismatchError), (10, SITES[1:], UnknownSiteError)]
)
def test_a_saved_session_of_another_topology_is_refused_and_changes_nothing(
    width: int, sites: Sequence[Any], error: type[EsperError], tmp_path: Path
) -> None:
    session = session_on(tiny_model(), plan=(GrowthStep(0.2, "hidden", "mlp_residual.v1", SMALL),))
    run(session, 0, 40)
    assert told(session)[-1] == "fossilised"
    session.save(tmp_path / "saved")
    other = session_on(tiny_model(width), sites=sites, plan=())
    run(other, 0, 5)
    before = everything(other)
    with pytest.raises(error):
        other.resume(tmp_path / "saved")
    assert equal_bits(everything(other), before) and other.steps_made == 5 and not other.history
