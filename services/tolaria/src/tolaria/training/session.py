"""Everything that a run trains with, in one place: model, data, optimizer, learning rate, counters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import torch
from torch import Tensor, nn

from esper_core.logs import get_logger
from esper_runtime import stages
from esper_runtime.distillation import Distillation
from esper_runtime.graft import Graft
from esper_runtime.host import Host
from esper_runtime.isolation_guard import IsolationGuard
from esper_runtime.topology import GraftRecord
from esper_tasks import Batch, EpochSampler, Task, TaskData, widened
from tolaria.aggregation.attribution import FirstOrder
from tolaria.aggregation.pool import GradientPool
from tolaria.growth.book import SeedBook
from tolaria.training.budget import Spent
from tolaria.training.costs import step_cost
from tolaria.training.feeding import PrefetchedBatches
from tolaria.training.flops import FlopMeter, StepCost
from tolaria.training.learning_rate import LearningRate
from tolaria.training.optimizer import group_name
from tolaria.training.plan import RunPlan
from tolaria.training.precision import Precision
from tolaria.training.scales import scale_of
from tolaria.training.statistics import LossStatistics

if TYPE_CHECKING:
    # Loading torch's compiler takes a second, which only runs that compile shall pay.
    from esper_runtime.compiling import CompiledBlocks
    from tolaria.training.graphs import CapturedModel

_log = get_logger("training")
_BLENDED: Final = frozenset({stages.BLENDING, stages.SHADOWING, stages.PROBATIONARY})


@dataclass(slots=True)
class Counters:
    """What a run counts; all of it belongs to a checkpoint.

    Attributes
    ----------
    step : int
        Optimizer steps made.
    flops : int
        Training FLOPs spent, counterfactual probes included.
    rollbacks : int
        Rollbacks made; a rollback does not undo this count.
    parameters_initial : int
        Parameters before growth.
    elapsed_s : float
        Wall time of earlier starts of this run, in seconds.
    """

    step: int = 0
    flops: int = 0
    rollbacks: int = 0
    parameters_initial: int = 0
    elapsed_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Scaled:
    """An owner whose gradients count by another factor than 1."""

    owner: str
    parameters: tuple[nn.Parameter, ...]
    scale: float


@dataclass(slots=True)
class Session:
    """The mutable heart of a run; only the training thread touches it. No teacher takes part without `distillation`."""

    plan: RunPlan
    task: Task
    data: TaskData
    host: Host
    optimizer: torch.optim.Optimizer
    learning_rate: LearningRate
    sampler: EpochSampler | PrefetchedBatches
    meter: FlopMeter
    device: torch.device
    statistics: LossStatistics = field(default_factory=LossStatistics)
    counters: Counters = field(default_factory=Counters)
    book: SeedBook = field(default_factory=SeedBook)
    isolation: IsolationGuard = field(default_factory=IsolationGuard)
    distillation: Distillation | None = None
    first_order: FirstOrder | None = None
    precision: Precision | None = None
    compiled: CompiledBlocks | None = None
    captured: CapturedModel | None = None
    _on_cpu: bool = False
    _most_steps: float | None = None
    _cost: StepCost | None = None
    _last_cost: StepCost | None = None
    _shadowed: tuple[str, ...] | None = None
    _contested: tuple[str, ...] | None = None
    _plain: bool | None = None
    _gradients: tuple[int, GradientPool] | None = None
    _scaled: tuple[Scaled, ...] | None = None
    _buffered: tuple[nn.Module, ...] | None = None

    def __post_init__(self) -> None:
        # Asked in every step, and with cold caches torch takes 9 µs to name the type of a device.
        self._on_cpu = self.device.type == "cpu"

    @property
    def epoch(self) -> int:
        """Whole epochs behind us."""
        return self.counters.step // self.sampler.batches_per_epoch

    @property
    def at_epoch_end(self) -> bool:
        """Whether the last step was the last of its epoch."""
        return self.counters.step > 0 and self.counters.step % self.sampler.batches_per_epoch == 0

    @property
    def spent(self) -> Spent:
        """What the budget is compared with."""
        return Spent(steps=self.counters.step, epochs=self.epoch, flops=self.counters.flops)

    @property
    def cost(self) -> StepCost:
        """What the next step costs on the present topology."""
        if self._cost is None:
            self._cost = self._weighed()
        return self._cost

    @property
    def shadowed(self) -> tuple[str, ...]:
        """Seeds that learn on a pass of their own, at full strength beside an untouched host."""
        if self._shadowed is None:
            self._shadowed = tuple(seed.seed_id for seed in self.host.seeds() if _in_shadow(seed))
        return self._shadowed

    @property
    def contested(self) -> tuple[str, ...]:
        """Seeds whose part in a learning host's gradients is held against what those would be without them."""
        if self._contested is None:
            seeds = self.host.seeds() if self._projects("seed") else ()
            still = any(seed.stage == stages.TRAINING and seed.isolation == stages.FREEZE for seed in seeds)
            self._contested = tuple(seed.seed_id for seed in seeds if not still and seed.stage in _BLENDED)
        return self._contested

    @property
    def teacher_id(self) -> str:
        """Id of the teacher that takes part, empty where none does."""
        return "" if self.distillation is None else self.distillation.teacher_id

    @property
    def asked_teacher(self) -> Distillation | None:
        """The teacher whose answers count in the steps to come, None where there is none."""
        return self.distillation if self.distillation is not None and self.distillation.asked else None

    @property
    def losses_apart(self) -> int:
        """How many losses of a batch's parts are held side by side and projected; 1 where they simply add up."""
        if not self._projects("microbatch"):
            return 1
        return self.plan.gradient_accumulation * (1 if self.asked_teacher is None else 2)

    @property
    def plain(self) -> bool:
        """Whether a step is one pass of its whole batch through the model as it is, for one loss; mostly it is."""
        if self._plain is None:
            whole = self.plan.gradient_accumulation == 1 and self.precision is None and self.captured is None
            self._plain = whole and self.asked_teacher is None and not self.contested and not self.shadowed
        return self._plain

    def _projects(self, losses: str) -> bool:
        return self.plan.gradient_aggregation == "pcgrad" and self.plan.pcgrad_losses == losses

    @property
    def gradients(self) -> GradientPool:
        """Where the gradients of several losses are held side by side; made anew for every generation."""
        if self._gradients is None or self._gradients[0] != self.host.generation:
            by_seed = self._projects("seed")
            owners = {group_name(group): group["params"] for group in self.optimizer.param_groups}
            losses = 1 + len(self.contested) if by_seed else self.losses_apart
            self._gradients = (self.host.generation, GradientPool(owners, losses, mean=by_seed))
        return self._gradients[1]

    @property
    def scaled(self) -> tuple[Scaled, ...]:
        """Owners whose gradients are scaled in the present stage of their seeds; nearly always none."""
        if self._scaled is None:
            owners = (
                Scaled(group_name(group), tuple(group["params"]), self.gradient_scale(group_name(group)))
                for group in self.optimizer.param_groups
            )
            self._scaled = tuple(owner for owner in owners if owner.scale != 1.0)
        return self._scaled

    def gradient_scale(self, owner: str) -> float:
        """Return the factor on an owner's gradients; 1 for the host, and for a seed that has become part of it."""
        record = next((seed for seed in self.host.seeds() if seed.seed_id == owner), None)
        return 1.0 if record is None else scale_of(self.plan.gradient_scales, record.site, record.stage)

    @property
    def buffered(self) -> tuple[nn.Module, ...]:
        """Modules that hold buffers on the present topology, which a forward pass may write; not the grafts' alphas."""
        if self._buffered is None:
            found = self.host.model.modules()
            self._buffered = tuple(module for module in found if module._buffers and not isinstance(module, Graft))
        return self._buffered

    def topology_changed(self) -> None:
        """Forget what depends on the topology, on a seed's stage or on the teacher."""
        self._cost = None
        self._shadowed = None
        self._contested = None
        self._gradients = None
        self._buffered = None
        self._scaled = None
        self._plain = None
        if self.compiled is not None:
            self.compiled.refresh()

    def outputs(self, inputs: Tensor) -> Tensor:
        """Run the model in the run's precision; what comes out is in float32 again, for the losses."""
        if self.captured is not None and not self.book.unsettled():
            return self.captured.outputs(inputs)
        if self.precision is None:
            return self.host.model(inputs)  # type: ignore[no-any-return]
        with self.precision.autocast():
            outputs = self.host.model(inputs)
        return widened(outputs)

    def compiles(self, seed_id: str) -> bool | None:
        """Say whether a seed runs compiled, or None where it has nothing compiled."""
        return None if self.compiled is None else self.compiled.compiles(seed_id)

    @property
    def graphs(self) -> int:
        """Graphs compiled so far by the blocks that there are now."""
        return 0 if self.compiled is None else sum(self.compiled.graphs.values())

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """Run what is measured and not trained on: in the same precision, and uncompiled."""
        with ExitStack() as around:
            if self.precision is not None:
                around.enter_context(self.precision.autocast())
            if self.compiled is not None:
                around.enter_context(self.compiled.paused())
            yield

    @property
    def fraction(self) -> float:
        """Spent share of the budget, 0 to 1."""
        return self.plan.budget.fraction(self.counters.step, self.counters.flops, self.sampler.batches_per_epoch)

    @property
    def fraction_after_step(self) -> float:
        """Share of the budget that the coming step reaches."""
        flops = self.counters.flops + self.cost.step
        return self.plan.budget.fraction(self.counters.step + 1, flops, self.sampler.batches_per_epoch)

    @property
    def total_steps(self) -> int:
        """Estimate of the steps of the whole run."""
        return self.plan.budget.total_steps(self.spent, self.cost.step, self.sampler.batches_per_epoch)

    def affords_step(self) -> bool:
        """Say whether the budget allows one more step."""
        if self._most_steps is None:
            self._most_steps = self.plan.budget.most_steps(self.sampler.batches_per_epoch)
        counters = self.counters
        return counters.step < self._most_steps and self.plan.budget.affords(counters.flops + self.cost.step)

    def next_batch(self) -> Batch:
        """Take the next batch to the device."""
        batch = self.sampler.next_batch()
        if self._on_cpu:
            return batch
        return Batch(batch.inputs.to(self.device), batch.targets.to(self.device))

    def _weighed(self) -> StepCost:
        try:
            self._last_cost = step_cost(self)
        except Exception as error:
            if self._last_cost is None:
                raise
            # A model that cannot run is met by the step that runs it, where it is known what to do about a seed.
            _log.warning("the cost of a step could not be measured; the last known one stands", exc_info=error)
        return self._last_cost


def _in_shadow(seed: GraftRecord) -> bool:
    return seed.stage == stages.TRAINING and seed.isolation == stages.SHADOW
