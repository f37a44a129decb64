"""Grow the model of a Hugging Face Trainer on Letter: one callback more than without Esper.

Needs `pip install 'esper-runtime[transformers]'`; run it with `python examples/transformers_loop.py [steps]`.
"""

from __future__ import annotations

import sys
import tempfile

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import Trainer, TrainingArguments

from esper_runtime import GrowthStep, HeldOut, Site
from esper_runtime.integrations.transformers import GrowthTrainerCallback
from esper_tasks import Split, load_task


class LetterNet(nn.Module):
    """A narrow network for 26 letters that answers as the Trainer expects."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.BatchNorm1d(16), nn.Linear(16, 20), nn.ReLU(), nn.Linear(20, 26))

    def forward(self, inputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the mean loss and the logits."""
        logits_BC = self.net(inputs)
        return {"loss": F.cross_entropy(logits_BC, labels), "logits": logits_BC}


def losses(model: LetterNet, batch: dict[str, Tensor]) -> Tensor:
    """Return the loss of each example."""
    return F.cross_entropy(model(**batch)["logits"], batch["labels"], reduction="none")


def rows(split: Split) -> list[dict[str, Tensor]]:
    """Return a split as the Trainer's collator reads it."""
    return [{"inputs": x, "labels": y} for x, y in zip(split.inputs, split.targets, strict=True)]


def main(steps: int) -> GrowthTrainerCallback:
    """Train for a number of steps, growing once on the way."""
    data = load_task("letter").data(seed=0)
    growth = GrowthTrainerCallback(
        sites=[Site("hidden", "net.2", "features")],
        held_out=HeldOut([{"inputs": data.probe.inputs, "labels": data.probe.targets}], losses),
        plan=[GrowthStep(0.1, "hidden", "mlp_residual.v1")],
    )
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=128,
            learning_rate=5e-3,
            use_cpu=True,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        Trainer(LetterNet(), arguments, train_dataset=rows(data.train), callbacks=[growth]).train()
    print(growth.session.explain())
    return growth


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
