"""Grow a network on Letter in a plain PyTorch loop. The five added lines are numbered; all else is as it would be.

Run it with `python examples/plain_loop.py [steps]`.
"""

from __future__ import annotations

import sys

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from esper_runtime import GrowthStep, HeldOut, Session, Site  # 1
from esper_tasks import Batch, load_task


def losses(model: nn.Module, batch: Batch) -> Tensor:
    """Return the loss of each example."""
    return F.cross_entropy(model(batch.inputs), batch.targets, reduction="none")


def main(steps: int) -> None:
    """Train for a number of steps, growing once on the way."""
    data = load_task("letter").data(seed=0)
    batches, held_out = data.sampler(128), list(data.probe.batches(1024))
    torch.manual_seed(0)
    model = nn.Sequential(nn.BatchNorm1d(16), nn.Linear(16, 20), nn.ReLU(), nn.Linear(20, 26))
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)

    sites, plan = [Site("hidden", "2", "features")], [GrowthStep(0.1, "hidden", "mlp_residual.v1")]  # 2
    session = Session(model, sites, optimizer, held_out=HeldOut(held_out, losses), steps=steps, plan=plan)  # 3
    for _ in range(steps):
        optimizer.zero_grad()
        loss = losses(model, batches.next_batch()).mean()
        loss.backward()
        session.step(loss)  # 4: in place of optimizer.step()
    session.finish()  # 5

    print(session.explain())
    model.eval()
    with torch.no_grad():
        right = model(data.test.inputs).argmax(dim=1) == data.test.targets
    print(f"test accuracy {float(right.float().mean()):.4f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3000)
