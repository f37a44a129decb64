"""What Tamiyo sees of a run at one step, as plain data. Enum fields hold Leyline's values; None means unknown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from esper_core import leyline
from esper_core.blueprints import Blueprint, SiteContract

UNSETTLED: Final = frozenset(
    {
        leyline.SEED_STAGE_GERMINATED,
        leyline.SEED_STAGE_TRAINING,
        leyline.SEED_STAGE_BLENDING,
        leyline.SEED_STAGE_SHADOWING,
        leyline.SEED_STAGE_PROBATIONARY,
    }
)
"""Stages in which a seed is attached and its fate is open."""

KEPT: Final = frozenset({leyline.SEED_STAGE_FOSSILIZED, leyline.SEED_STAGE_TERMINATED})
"""Stages of a seed that became part of the host."""

ENDED: Final = frozenset({leyline.RUN_STATE_COMPLETED, leyline.RUN_STATE_HALTED, leyline.RUN_STATE_FAILED})
"""States of a run that makes no further step."""


@dataclass(frozen=True, slots=True)
class SiteView:
    """A place where the host may grow; `depth` counts from the input.

    `blueprint_ids` are the only ones that may grow there; empty where every one that fits may.
    """

    name: str
    contract: SiteContract
    depth: int
    blueprint_ids: tuple[str, ...] = ()

    def admits(self, blueprint: Blueprint) -> bool:
        """Say whether a blueprint fits there and may grow there."""
        return blueprint.fits(self.contract) and blueprint.blueprint_id in (
            self.blueprint_ids or [blueprint.blueprint_id]
        )


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What stays the same between topology changes; budgets of 0 mean "no bound"."""

    task: str
    policy: str
    total_steps: int
    flops_budget: int
    parameters_budget: int
    seeds_budget: int
    sites: tuple[SiteView, ...]
    blueprint_ids: tuple[str, ...]
    host_parameters: int
    steps_per_epoch: int
    random_seed: int

    def fraction(self, step: int, flops_used: int) -> float:
        """Return how much of the budget is spent, 0 to 1; FLOPs rule where they are bounded."""
        if self.flops_budget > 0:
            return min(1.0, flops_used / self.flops_budget)
        return min(1.0, step / self.total_steps) if self.total_steps > 0 else 0.0


@dataclass(frozen=True, slots=True)
class SeedView:
    """A seed as the runtime holds it; the contribution is a loss, positive is good."""

    seed_id: str
    site: str
    stage: int
    blueprint_id: str
    alpha: float = 0.0
    age_steps: int = 0
    stage_steps: int = 0
    parameter_count: int = 0
    contribution: float | None = None
    contribution_low: float | None = None
    contribution_high: float | None = None
    risk_score: float = 0.0
    germinate_command_id: str = ""
    gradient_norm: float | None = None

    @property
    def unsettled(self) -> bool:
        """Whether it is attached and its fate is open."""
        return self.stage in UNSETTLED


@dataclass(frozen=True, slots=True)
class Figures:
    """Training figures of a step; None where the trainer did not measure."""

    loss: float | None = None
    loss_delta: float | None = None
    loss_ewma: float | None = None
    loss_volatility: float | None = None
    gradient_norm: float | None = None
    grad_var: float | None = None
    grad_conflict_rate: float | None = None
    hook_latency_ms: float | None = None
    step_latency_ms: float | None = None
    kasmina_apply_ms: float | None = None
    kasmina_finalize_ms: float | None = None
    gpu_mem_free_gb: float | None = None
    gpu_util_percent: float | None = None
    cpu_util_percent: float | None = None


@dataclass(frozen=True, slots=True)
class Validation:
    """A real validation pass; the accuracy lies in 0 to 1."""

    loss: float
    step: int
    accuracy: float | None = None


@dataclass(frozen=True, slots=True)
class Observation:
    """One packet."""

    packet_id: str
    run_id: str
    epoch: int
    step: int
    generation: int
    figures: Figures
    seeds: tuple[SeedView, ...] = ()
    validation: Validation | None = None
    plan: RunPlan | None = None
    parameters: int = 0
    flops_used: int = 0
    device_type: str = ""
    run_state: int = leyline.RUN_STATE_RUNNING
    final: bool = False

    def unsettled(self) -> Iterator[SeedView]:
        """Yield the seeds whose fate is open."""
        return (seed for seed in self.seeds if seed.unsettled)

    def seed(self, seed_id: str) -> SeedView | None:
        """Return a seed by its id."""
        return next((seed for seed in self.seeds if seed.seed_id == seed_id), None)
