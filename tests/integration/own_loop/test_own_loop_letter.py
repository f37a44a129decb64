"""A session on real data: growth that pays is kept, a toxic seed leaves the network as it was."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper_runtime import GrowthStep, HeldOut, Session, Site, load_exported
from esper_runtime.own_loop import Rules
from esper_tasks import Batch, load_task
from support.growth import equal_bits, state_of

STEPS = 500
SITES = [Site("hidden", "2", "features")]


def losses(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch.inputs), batch.targets, reduction="none")


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.BatchNorm1d(16), nn.Linear(16, 20), nn.ReLU(), nn.Linear(20, 26))


def trained(
    plan: list[GrowthStep], drill: bool = False, states: dict[str, dict[str, Tensor]] | None = None
) -> tuple[Session, float]:
    """Train for the whole budget; answer with the session and the test accuracy, and note the host at every event."""
    data = load_task("letter").data(seed=0)
    model, batches = network(), data.sampler(128)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    rules = Rules(Rules.of_budget(STEPS).pace, drill=drill)
    held_out = HeldOut(list(data.probe.batches(1024)), losses)
    session = Session(model, SITES, optimizer, held_out=held_out, steps=STEPS, plan=plan, rules=rules)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = losses(model, batches.next_batch()).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        before = len(session.history)
        session.step(loss)
        if states is not None and len(session.history) > before:
            bare = {name: tensor for name, tensor in state_of(session.host).items() if not name.startswith("seed:")}
            states[session.history[-1].what] = bare
    session.finish()
    model.eval()
    with torch.no_grad():
        right = model(data.test.inputs).argmax(dim=1) == data.test.targets
    return session, float(right.double().mean())


def test_growth_that_pays_is_kept_and_ends_above_the_network_that_never_grew(tmp_path: Path) -> None:
    never, plain = trained([])
    session, grown = trained([GrowthStep(0.1, "hidden", "mlp_residual.v1")])
    assert [event.what for event in session.history][-1] == "fossilised", session.explain()
    assert never.history == () and grown > plain + 0.01, (plain, grown)
    session.export(tmp_path, factory="torch.nn:Identity")
    probe = torch.arange(32.0).reshape(2, 16)
    assert torch.equal(load_exported(tmp_path, factory=network)(probe), session.host.model(probe))


def test_a_toxic_seed_costs_steps_and_nothing_else() -> None:
    _, plain = trained([])
    states: dict[str, dict[str, Tensor]] = {}
    toxic = [GrowthStep(0.1, "hidden", "toxic_weights.v1", {"scale": 16.0})]
    session, accuracy = trained(toxic, drill=True, states=states)
    assert session.history[-1].what == "culled" and not session.host.seeds(), session.explain()
    assert equal_bits(states["training"], states["culled"])
    assert accuracy > plain - 0.03, (plain, accuracy)
