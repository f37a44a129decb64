"""A run as the trainer takes it: the request with every default filled in and every value checked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tolaria.training.budget import Budget

if TYPE_CHECKING:
    # Only for annotations: the service checks plans as well and must not load torch.
    from esper_tasks import ParameterValue

OPTIMIZERS: Final = ("adam", "adamw", "sgd")
LR_POLICIES: Final = ("constant", "cosine", "step", "plateau")
AFTER_PERIOD: Final = ("hold", "restart")
LR_GROUPS: Final = ("host", "seeds")
SEED_FACTOR: Final = 0.5
AGGREGATIONS: Final = ("sum", "pcgrad")
ATTRIBUTIONS: Final = ("approx", "probe")
PCGRAD_LOSSES: Final = ("microbatch", "seed")
PRECISIONS: Final = ("float32", "bfloat16", "float16")
GROWTH_POLICIES: Final = ("none", "schedule", "heuristic", "learned")
TEACHER_WEIGHT_LIMIT: Final = 100.0
TEMPERATURE_LIMIT: Final = 100.0

CONTROL_LOSS: Final = ("continue", "halt")


@dataclass(frozen=True, slots=True)
class OptimizerPlan:
    """Optimizer and base learning rate of every group."""

    name: str
    learning_rate: float
    weight_decay: float = 0.0
    momentum: float = 0.0


@dataclass(frozen=True, slots=True)
class LearningRatePlan:
    """Learning-rate policy over the budget.

    Parameters
    ----------
    policy : str
        One of `LR_POLICIES`.
    warmup_fraction : float
        Share of the budget in which the rate rises linearly.
    floor : float
        Lowest factor that the policy may reach after the warm-up.
    warmup_floor : float
        Factor from which the warm-up rises.
    period : float
        Part of the budget after the warm-up that one cosine takes.
    after_period : str
        What cosine does then, one of `AFTER_PERIOD`.
    groups : Mapping[str, str]
        Policies of the groups in `LR_GROUPS` that do not follow `policy`.
    seed_factor : float
        Base rate of the seeds' groups over the host's. New parameters have fresh moments, so that a rate that the host
        stands already throws them about.
    """

    policy: str = "constant"
    warmup_fraction: float = 0.0
    floor: float = 0.0
    warmup_floor: float = 0.0
    period: float = 1.0
    after_period: str = "hold"
    groups: Mapping[str, str] = field(default_factory=dict)
    seed_factor: float = SEED_FACTOR


@dataclass(frozen=True, slots=True)
class GradientScale:
    """A factor on the gradients of seeds.

    Attributes
    ----------
    site : str
        Whose seeds are meant; empty for all sites.
    stage : int
        Leyline's SeedStage; 0 for every stage before the seed belongs to the host.
    scale : float
        The factor.
    """

    site: str
    stage: int
    scale: float


@dataclass(frozen=True, slots=True)
class GrowthPlan:
    """Who may grow the model, where and how far; policy "none" means a static run without a control plane."""

    policy: str = "none"
    sites: tuple[str, ...] = ()
    blueprint_ids: tuple[str, ...] = ()
    max_seeds: int = 0
    max_parameters: int = 0
    isolation: int = 0
    allow_restricted: bool = False

    @property
    def enabled(self) -> bool:
        """Whether the run talks to Tamiyo and Kasmina."""
        return self.policy != "none"


@dataclass(frozen=True, slots=True)
class TeacherPlan:
    """A model to learn from besides the targets, and how much; see TeacherSpec for the meaning of each field."""

    source: str
    weight: float
    temperature: float
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class RunPlan:
    """Everything that rules a run; see RunSpec for the meaning of each field."""

    run_id: str
    task: str
    batch_size: int
    budget: Budget
    optimizer: OptimizerPlan
    learning_rate: LearningRatePlan = field(default_factory=LearningRatePlan)
    growth: GrowthPlan = field(default_factory=GrowthPlan)
    parameters: Mapping[str, ParameterValue] = field(default_factory=dict)
    random_seed: int = 0
    threads: int = 1
    device: str = "cpu"
    on_control_loss: str = "continue"
    checkpoint_interval_steps: int = 0
    validation_interval_steps: int = 0
    start_from: str = ""
    topology_only: bool = False
    gradient_accumulation: int = 1
    gradient_aggregation: str = "sum"
    teacher: TeacherPlan | None = None
    pcgrad_losses: str = "microbatch"
    gradient_scales: tuple[GradientScale, ...] = ()
    attribution: str = ""
    compile: bool = False
    precision: str = "float32"
