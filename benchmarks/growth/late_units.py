"""What new units need: a plain network on Letter that becomes wider while it trains, without any of Esper.

    python -m benchmarks.growth.late_units [--seeds 5]

One hidden layer of 24 units gets 64 more at some point of a budget of FLOPs, with random inner and zero outer weights,
as a seed has them. Adam with fresh moments for what is new, cosine over the budget, no isolation, no gates. Varied are
the point, the size of the inner weights over torch's ordinary one, and a factor on what goes into the outer layer.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.growth.cases import GFLOP
from esper_tasks.letter import CLASSES, FEATURES, letter_splits

BUDGET: Final = 6 * GFLOP
BATCH: Final = 128
RATE: Final = 0.04
WIDTH: Final = 24
NEW: Final = 64
POINTS: Final = (0.0, 0.005, 0.02, 0.07)
FORMS: Final = ((1.0, 1.0), (1.0, 0.25), (4.0, 1.0), (4.0, 0.25), (8.0, 0.25))
_PASSES: Final = 3
"""Forward once, backward twice."""


class Layer(nn.Module):
    """Some hidden units, from the inputs to the logits."""

    def __init__(self, width: int, scale: float = 1.0) -> None:
        super().__init__()
        self.scale = scale
        self.inner = nn.Linear(FEATURES, width)
        self.outer = nn.Linear(width, CLASSES)
        self.flops = _PASSES * 2 * BATCH * width * (FEATURES + CLASSES)

    def forward(self, inputs_BF: Tensor) -> Tensor:
        """Return the part of these units in the logits."""
        logits: Tensor = self.outer(self.scale * F.relu(self.inner(inputs_BF)))
        return logits


@dataclass(frozen=True, slots=True)
class Grown:
    """Test accuracy in percent, and how many directions the outer weights of the new units span."""

    accuracy: float
    directions: float


def grow(seed: int, at: float, gain: float, scale: float) -> Grown:
    """Train one network; `at` is the share of the budget after which the new units come."""
    torch.manual_seed(seed)
    train, _, _, test = letter_splits()
    batches = _batches(seed, _scaled(train.inputs), train.targets)
    layers = [Layer(WIDTH)]
    optimizer = torch.optim.Adam(layers[0].parameters(), lr=RATE, fused=True)
    spent = 0
    while spent < BUDGET:
        if len(layers) == 1 and spent >= at * BUDGET:
            layers.append(_late(gain, scale))
            optimizer.add_param_group({"params": list(layers[1].parameters())})
        for group in optimizer.param_groups:
            group["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * spent / BUDGET))
        inputs, targets = next(batches)
        optimizer.zero_grad()
        F.cross_entropy(_logits(layers, inputs), targets).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        spent += sum(layer.flops for layer in layers)
    with torch.no_grad():
        right = _logits(layers, _scaled(test.inputs)).argmax(1) == test.targets
    return Grown(100 * right.float().mean().item(), _directions(layers[1].outer.weight.detach()))


def _late(gain: float, scale: float) -> Layer:
    late = Layer(NEW, scale)
    with torch.no_grad():
        late.inner.weight.mul_(gain)
        late.inner.bias.mul_(gain)
        late.outer.weight.zero_()
        late.outer.bias.zero_()
    return late


def _logits(layers: Sequence[Layer], inputs: Tensor) -> Tensor:
    return torch.stack([layer(inputs) for layer in layers]).sum(0)


def _scaled(inputs: Tensor) -> Tensor:
    return (inputs - 7.5) / 4.0


def _batches(seed: int, inputs: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    order = torch.Generator().manual_seed(seed)
    while True:
        for chosen in torch.split(torch.randperm(len(inputs), generator=order), BATCH)[:-1]:
            yield inputs[chosen], targets[chosen]


def _directions(outer_CU: Tensor) -> float:
    """Return the participation ratio of the squared singular values: 1 where all units say the same."""
    power = torch.linalg.svdvals(outer_CU).square()
    return float(power.sum().square() / power.square().sum())


def main(arguments: Sequence[str] | None = None) -> int:
    """Print a line for each point and form."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=5, help="runs of each, at least 2")
    chosen = parser.parse_args(arguments)
    print("| units come at | inner weights | scale | test accuracy, % | directions of the outer weights |")
    print("|---|---|---|---|---|")
    for at, (gain, scale) in ((at, form) for at in POINTS for form in FORMS):
        runs = [grow(seed, at, gain, scale) for seed in range(max(2, chosen.seeds))]
        scores, directions = [run.accuracy for run in runs], fmean(run.directions for run in runs)
        print(
            f"| {at:.1%} | x{gain:g} | {scale:g} | {fmean(scores):.2f} ± {stdev(scores):.2f} | {directions:.1f} |",
            flush=True,
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
