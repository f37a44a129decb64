"""A toxic blueprint is forced upon Letter: what gates and rollback make of it, what it does unhindered.

Toxic means: every weight of the seed eight times as large, its zero last layer filled like an ordinary one before that,
and three times the host's learning rate.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, Final

import torch
from torch import nn

from benchmarks.growth.arms import Arm, spec_of
from benchmarks.growth.cases import Case
from benchmarks.growth.clock import StepClock
from benchmarks.growth.directors import Director, Plant, PlantingDirector
from benchmarks.growth.kernels import Kernels
from benchmarks.growth.run import Course, Running, Trained, train
from esper_core import leyline
from esper_runtime.blueprints.operator import initialise_layer
from esper_runtime.snapshot import Snapshot
from kasmina.gates.limits import GateLimits
from kasmina.rules import Rules
from tamiyo.evaluation import Rulebook
from tolaria.growth.book import SeedEntry
from tolaria.state.capture import capture_session
from tolaria.training.orders import Order, RateChange

FACTOR: Final = 8.0
RATE_FACTORS: Final = (2.0, 1.5)
"""Three times the rate, in two steps: the trainer takes at most a doubling at once."""

SNAPSHOT_STEPS: Final = 200
"""Tolaria's own interval between two snapshots in memory."""

PLANT: Final = Plant(0.1, "stem", "mlp_residual.v1")
NEVER: Final = Arm("never")
FORCED: Final = Arm("forced", decider="random")
_OPEN: Final = GateLimits(
    gradient_norm_max=1e30,
    loss_ratio_max=1e30,
    output_ratio_max=1e30,
    contribution_low_min=-1e30,
    improvement_tolerance=1e30,
)


def spoil(module: nn.Module) -> None:
    """Make a seed toxic."""
    generator = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.Linear) and not layer.weight.any():
                initialise_layer(layer, generator)
        for parameter in module.parameters():
            parameter.mul_(FACTOR)


ARMS: Final = ("never", "protected", "gates alone", "gates and rollback", "gates open")


def measure_toxic(case: Case, rate: float) -> dict[str, Any]:
    """Run every seed never grown, with all protection, with parts of it, and with none."""
    return {
        "task": case.task,
        "flops": case.flops,
        "learning_rate": rate,
        "seeds": case.seeds,
        "runs": [_one_seed(case, rate, seed) for seed in range(case.seeds)],
    }


def _one_seed(case: Case, rate: float, seed: int) -> dict[str, Any]:
    forced = spec_of(FORCED, case.task, case.flops, rate, seed)
    told = {"never": _told(train(spec_of(NEVER, case.task, case.flops, rate, seed)), None)}
    for arm in ARMS[1:]:
        watch = Poisoner(order_rollback=arm == "gates and rollback")
        told[arm] = _told(train(forced, _course(arm, seed, watch)), watch)
    return told


def _told(run: Trained, watch: Poisoner | None) -> dict[str, Any]:
    told = {"score": run.score, "rollbacks": run.rollbacks, "wall_s": run.wall_s, "ends": run.ends}
    return told if watch is None else {**told, "exact": watch.exact}


def _course(arm: str, seed: int, watch: Poisoner) -> Course:
    def director(clock: StepClock, rules: Rulebook) -> Director:
        return PlantingDirector(clock, rules, (PLANT,), seed)

    rules = replace(Rules(), limits=_OPEN) if arm == "gates open" else Rules()
    explosion = 4.0 if arm == "protected" else 1e30
    return Course(director, rules, kernels=lambda: Kernels(spoil), watch=watch, explosion_factor=explosion)


@dataclass(slots=True)
class Poisoner:
    """Raises the learning rate of a seed as soon as it is attached, and looks at every rollback.

    Attributes
    ----------
    order_rollback : bool
        Whether to order a rollback to before the germination once the seed is out.
    exact : list of bool
        For each rollback, whether the state after it has the digest of the state that was kept at that step: weights,
        moments, random state, data cursor, learning rate, seed book.
    """

    order_rollback: bool = False
    exact: list[bool] = field(default_factory=list)
    _poisoned: set[str] = field(default_factory=set)
    _kept: dict[int, str] = field(default_factory=dict)
    _ordered: bool = False

    def __call__(self, running: Running) -> None:
        """Look at the run after a turn."""
        session = running.session
        if session.counters.rollbacks > len(self.exact):
            self.exact.append(self._kept.get(session.counters.step) == state_digest(running))
        elif session.counters.step % SNAPSHOT_STEPS == 0:
            self._kept[session.counters.step] = state_digest(running)
        for entry in session.book:
            if entry.unsettled:
                self._poison(running, entry)
            elif self.order_rollback and not self._ordered:
                self._go_back(running, entry)

    def _poison(self, running: Running, entry: SeedEntry) -> None:
        if entry.seed_id not in self._poisoned:
            self._poisoned.add(entry.seed_id)
            for factor in RATE_FACTORS:
                running.parts.links.inbox.post(RateChange("toxic", factor, entry.seed_id))

    def _go_back(self, running: Running, culled: SeedEntry) -> None:
        """Let the fence carry the order out here and now, so that nothing lies between rollback and comparison."""
        self._ordered = True
        order = Order("toxic", leyline.ORDER_KIND_ROLLBACK, "Measured.", to_step=culled.germinated_step)
        running.parts.links.inbox.post(order)
        running.parts.fence.cross()
        self.exact.append(self._kept.get(running.session.counters.step) == state_digest(running))


def state_digest(running: Running) -> str:
    """Return a digest of everything that a run goes on from, except what a rollback must not undo."""
    snapshot = capture_session(running.session, 0.0)
    digest = hashlib.sha256()
    for part in _parts(snapshot):
        digest.update(part)
    return digest.hexdigest()


def _parts(snapshot: Snapshot) -> Iterator[bytes]:
    moments = snapshot.optimizer.tensors if snapshot.optimizer else {}
    named = {**snapshot.parameters, **snapshot.buffers}
    named |= {f"{name}/{key}": tensor for name, found in moments.items() for key, tensor in found.items()}
    for name in sorted(named):
        yield name.encode()
        yield named[name].numpy().tobytes()
    cursor = {name: snapshot.cursor[name] for name in ("data", "statistics", "book")}
    plain = [snapshot.step, snapshot.scheduler, cursor, snapshot.optimizer.groups if snapshot.optimizer else ()]
    yield json.dumps(plain, sort_keys=True, default=str).encode()
    yield repr(snapshot.random).encode()
