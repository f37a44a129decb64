"""Small static, big static and grown by hand on Letter at equal training FLOPs, without any service.

    OMP_NUM_THREADS=1 python benchmarks/letter_sizing.py --seeds 3 > sizing.json

It chooses nothing on the test split: learning rates are picked by validation accuracy, test accuracy is only reported.
Training FLOPs are 6 per weight of a linear layer and example (2 forward, 4 backward); a step with a frozen host is
charged in full.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from esper_core.blueprints import get_blueprint
from esper_runtime.blueprints import Operator
from esper_runtime.blueprints.registry import build
from esper_tasks import Task, TaskData, evaluate, load_task, mean_loss

FREEZE_FRACTION = 0.03
BLEND_FRACTION = 0.05


@dataclass(frozen=True)
class Growth:
    """One graft: when, where, what, and alpha while the host is frozen."""

    at: float
    site: str
    expansion: float = 1.0
    normalise: str = "none"
    blueprint: str = "mlp_residual.v1"
    alpha: float = 1.0


@dataclass(frozen=True)
class Arm:
    """A way to spend the budget."""

    name: str
    parameters: dict[str, Any]
    learning_rate: float
    growth: Sequence[Growth] = ()


class Grafted(nn.Module):
    """A host's submodule with a seed on its output, h + alpha * s(h), or beside it, h + alpha * s(x)."""

    def __init__(self, host: nn.Module, seed: Operator) -> None:
        super().__init__()
        self.host = host
        self.seed = seed
        self.alpha = 0.0

    def forward(self, x: Tensor) -> Tensor:
        """Blend."""
        h = self.host(x)
        blended: Tensor = h + self.alpha * (self.seed(h, x) if self.seed.wants_input else self.seed(h))
        return blended


@dataclass
class Trainer:
    """One run of one arm."""

    task: Task
    data: TaskData
    arm: Arm
    budget: int
    seed: int
    batch_size: int = 128
    live: list[tuple[Grafted, Growth]] = field(default_factory=list)

    def run(self) -> dict[str, Any]:
        """Train until the budget is spent and score validation and test."""
        self.model = self.task.build_model(self.seed, **self.arm.parameters)
        self.host_parameters = list(self.model.parameters())
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=self.arm.learning_rate)
        sampler = self.data.sampler(self.batch_size)
        pending = sorted(self.arm.growth, key=lambda growth: growth.at)
        used = steps = 0
        started = time.perf_counter()
        while used < self.budget:
            fraction = used / self.budget
            while pending and fraction >= pending[0].at:
                self.graft(pending.pop(0))
            self.schedule(fraction)
            batch = sampler.next_batch()
            self.optimizer.zero_grad()
            torch.autograd.backward(mean_loss(self.task, self.model(batch.inputs), batch.targets))
            self.optimizer.step()
            used += self.step_flops()
            steps += 1
        wall_s = time.perf_counter() - started
        return {
            "budget": self.budget,
            "arm": self.arm.name,
            "seed": self.seed,
            "learning_rate": self.arm.learning_rate,
            "validation": round(evaluate(self.task, self.model, self.data.validation).metric, 4),
            "test": round(evaluate(self.task, self.model, self.data.test).metric, 4),
            "train": round(evaluate(self.task, self.model, self.data.train).metric, 4),
            "parameters": sum(parameter.numel() for parameter in self.model.parameters()),
            "steps": steps,
            "wall_s": round(wall_s, 1),
            "us_per_step": round(1e6 * wall_s / steps),
        }

    def step_flops(self) -> int:
        """Charge 6 per weight and example."""
        weights = sum(parameter.numel() for parameter in self.model.parameters() if parameter.dim() > 1)
        return 6 * weights * self.batch_size

    def graft(self, growth: Growth) -> None:
        """Wrap the site's submodule."""
        site = next(site for site in self.task.sites(self.fresh()) if site.name == growth.site)
        assert site.contract is not None
        offered = {"normalise": growth.normalise, "expansion": growth.expansion}
        options = {
            bound.name: offered[bound.name]
            for bound in get_blueprint(growth.blueprint).parameters
            if bound.name in offered
        }
        module = build(
            growth.blueprint, options, site.contract, torch.Generator().manual_seed(self.seed + len(self.live))
        )
        parent_path, _, leaf = site.module_path.rpartition(".")
        parent = self.model.get_submodule(parent_path)
        wrapped = Grafted(getattr(parent, leaf), module)
        setattr(parent, leaf, wrapped)
        self.optimizer.add_param_group({"params": list(module.parameters())})
        self.live.append((wrapped, growth))

    def fresh(self) -> nn.Module:
        """Return an ungrown model, to ask for the sites."""
        return self.task.build_model(0, **self.arm.parameters)

    def schedule(self, fraction: float) -> None:
        """Set the cosine learning rate, the freeze and the alphas for this fraction of the budget."""
        rate = self.arm.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, fraction)))
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        frozen = False
        for wrapped, growth in self.live:
            age = fraction - growth.at
            frozen |= age < FREEZE_FRACTION
            ramp = min(1.0, max(0.0, (age - FREEZE_FRACTION) / BLEND_FRACTION))
            wrapped.alpha = growth.alpha + (1.0 - growth.alpha) * ramp
        for parameter in self.host_parameters:
            parameter.requires_grad_(not frozen)


PLAN = [Growth(0.08, "stem", 1.75), Growth(0.18, "hidden1", 1.0)]
WIDE = "widen.v1"
GROWN = {
    "grown: widened, layer then readout": [
        Growth(0.08, "hidden1", blueprint=WIDE),
        Growth(0.18, "readout", 1.5, blueprint=WIDE),
    ],
    "grown: widened, readout then layer": [
        Growth(0.08, "readout", 0.75, blueprint=WIDE),
        Growth(0.18, "hidden1", 1.75, blueprint=WIDE),
    ],
    "grown: widened, layer twice": [
        Growth(0.08, "hidden1", blueprint=WIDE),
        Growth(0.18, "hidden1", 1.75, blueprint=WIDE),
    ],
    "grown: widened, readout twice": [
        Growth(0.08, "readout", 0.75, blueprint=WIDE),
        Growth(0.18, "readout", 1.5, blueprint=WIDE),
    ],
    "grown: widened, layer only": [Growth(0.08, "hidden1", blueprint=WIDE)],
    "grown: widened at 5, 12 and 20 %": [
        Growth(0.05, "hidden1", blueprint=WIDE),
        Growth(0.12, "readout", 1.5, blueprint=WIDE),
        Growth(0.2, "hidden1", 1.75, blueprint=WIDE),
    ],
    "grown: the plan": PLAN,
    "grown: the plan with default parameters": [Growth(g.at, g.site) for g in PLAN],
    "grown: the plan, alpha 0.25 while frozen": [Growth(g.at, g.site, g.expansion, alpha=0.25) for g in PLAN],
    "grown: the plan, layer norm inside": [Growth(g.at, g.site, g.expansion, "layer") for g in PLAN],
    "grown: the plan in reverse": [Growth(0.08, "hidden1", 1.0), Growth(0.18, "stem", 1.75)],
    "grown: the plan at 0.3 and 0.5": [Growth(at, g.site, g.expansion) for at, g in zip((0.3, 0.5), PLAN, strict=True)],
    "grown: the plan at 0.6 and 0.7": [Growth(at, g.site, g.expansion) for at, g in zip((0.6, 0.7), PLAN, strict=True)],
    "grown: stem only": PLAN[:1],
    "grown: stem only, x4": [Growth(0.08, "stem", 4.0)],
    "grown: hidden1 only": [Growth(0.08, "hidden1", 1.0)],
    "grown: norm at hidden1": [Growth(0.08, "hidden1", normalise="layer", blueprint="norm.v1")],
    "grown: low rank at hidden1": [Growth(0.08, "hidden1", blueprint="low_rank_linear.v1")],
}


def arms(learning_rates: Sequence[float], width: int) -> list[Arm]:
    """Return every arm at every learning rate."""
    small, big = {"width": width}, {"size": "big"}
    chosen = []
    for rate in learning_rates:
        chosen += [Arm("small", small, rate), Arm("big", big, rate)]
        chosen += [Arm(name, small, rate, growth) for name, growth in GROWN.items()]
    return chosen


def main() -> None:
    """Run the arms with every seed and print one JSON object per run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--learning-rates", type=float, nargs="+", default=[0.005, 0.01, 0.02])
    parser.add_argument("--budget", type=float, default=0, help="training FLOPs; the task's default when 0")
    parser.add_argument("--width", type=int, default=24, help="width of the small host")
    parser.add_argument("--only", nargs="+", default=[""], help="run only arms whose name contains one of these")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    task = load_task("letter")
    budget = int(arguments.budget) or task.default_spec().flops_budget
    for arm in arms(arguments.learning_rates, arguments.width):
        if any(word in arm.name for word in arguments.only):
            for seed in range(arguments.seeds):
                print(json.dumps(Trainer(task, task.data(seed), arm, budget, seed).run()), flush=True)


if __name__ == "__main__":
    main()
