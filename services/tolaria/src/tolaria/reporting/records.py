"""One training step as the control plane sees it: plain numbers, made only when somebody wants them."""

from __future__ import annotations

from dataclasses import dataclass, field

from esper_core import leyline


@dataclass(frozen=True, slots=True)
class LayerRecord:
    """One layer of the host; `gradient_norm` is None before the first step."""

    name: str
    kind: str
    depth: int
    parameter_count: int
    weight_norm: float
    gradient_norm: float | None


@dataclass(frozen=True, slots=True)
class StepRecord:
    """What the training thread leaves for the mediator.

    Attributes
    ----------
    metrics : dict
        Figures by their names in TrainingMetrics; None means unknown.
    validation : ValidationMetrics or None
        The last validation pass, where no record has carried it yet.
    seeds : tuple
        All seeds of the run.
    layers : tuple of LayerRecord
        The host's layers, where they were asked for.
    final : bool
        Whether the run waits at its last fence.
    """

    step: int
    epoch: int
    generation: int
    total_steps: int
    fraction: float
    flops_used: int
    parameters: int
    run_state: int
    host_digest: str
    metrics: dict[str, float | int | None] = field(default_factory=dict)
    validation: leyline.ValidationMetrics | None = None
    seeds: tuple[leyline.SeedState, ...] = ()
    layers: tuple[LayerRecord, ...] = ()
    final: bool = False


@dataclass(frozen=True, slots=True)
class RunFacts:
    """What stays the same over the whole run, for greetings and contexts."""

    run_id: str
    task: str
    policy: str
    flops_budget: int
    parameters_budget: int
    seeds_budget: int
    sites: tuple[leyline.Site, ...]
    blueprint_ids: tuple[str, ...]
    host_parameters: int
    steps_per_epoch: int
    random_seed: int
    isolation: int
    host_layers: tuple[str, ...]
    device: str
    allow_restricted: bool = False
