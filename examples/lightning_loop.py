"""Grow a LightningModule on Letter: one callback more than without Esper.

Needs `pip install 'esper-runtime[lightning]'`; run it with `python examples/lightning_loop.py [steps]`.
"""

from __future__ import annotations

import sys

import torch
from lightning.pytorch import LightningModule, Trainer
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from esper_runtime import GrowthStep, HeldOut, Site
from esper_runtime.integrations.lightning import GrowthCallback
from esper_tasks import load_task

Batch = tuple[Tensor, Tensor]


class LetterNet(LightningModule):
    """A narrow network for 26 letters."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.BatchNorm1d(16), nn.Linear(16, 20), nn.ReLU(), nn.Linear(20, 26))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the mean loss of a batch."""
        return losses(self, batch).mean()

    def configure_optimizers(self) -> dict[str, object]:
        """Return Adam with a learning rate that decays every step."""
        optimizer = torch.optim.Adam(self.parameters(), lr=5e-3)
        scheduler = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.9995)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}


def losses(module: LetterNet, batch: Batch) -> Tensor:
    """Return the loss of each example."""
    return F.cross_entropy(module.net(batch[0]), batch[1], reduction="none")


def main(steps: int) -> GrowthCallback:
    """Train for a number of steps, growing once on the way."""
    data = load_task("letter").data(seed=0)
    growth = GrowthCallback(
        sites=[Site("hidden", "net.2", "features")],
        held_out=HeldOut([(data.probe.inputs, data.probe.targets)], losses),
        plan=[GrowthStep(0.1, "hidden", "mlp_residual.v1")],
    )
    torch.manual_seed(0)
    loader = DataLoader(TensorDataset(data.train.inputs, data.train.targets), batch_size=128, shuffle=True)
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = Trainer(max_steps=steps, accelerator="cpu", callbacks=[growth], **quiet)
    trainer.fit(LetterNet(), loader)
    print(growth.session.explain())
    return growth


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
