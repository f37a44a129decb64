"""What the runtime measured of a seed, as plain data. An absent number is unknown, never zero."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Probe:
    """A paired counterfactual on held-out data; `contribution` is loss without the seed minus loss with it."""

    mean_loss_with: float
    mean_loss_without: float
    contribution: float
    ci_low: float
    ci_high: float
    examples: int
    step: int

    @property
    def half_width(self) -> float:
        """Half of the 95 % interval."""
        return (self.ci_high - self.ci_low) / 2


@dataclass(frozen=True, slots=True)
class Improvement:
    """Observed loss against the curve extrapolated from before germination; a positive improvement is good."""

    expected_loss: float
    observed_loss: float
    improvement: float
    standard_error: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """One report about one seed.

    Attributes follow `leyline.SeedEvidence`; losses in nats, norms as RMS or L2 as documented there, times in ms.
    """

    run_id: str
    seed_id: str
    generation: int
    step: int
    epoch: int
    stage: int
    alpha: float
    finite: bool
    gradient_norm: float | None = None
    host_gradient_norm: float | None = None
    isolation_cosine: float | None = None
    isolation_violations: int = 0
    latency_ms: float | None = None
    output_norm: float | None = None
    host_output_norm: float | None = None
    loss: float | None = None
    loss_at_germination: float | None = None
    seed_loss: float | None = None
    contribution: Probe | None = None
    improvement: Improvement | None = None
    alpha_monotone: bool = True
    alpha_mean: float | None = None
    alpha_p95: float | None = None
    sparsity: float | None = None
    gate_mean: float | None = None
    compiled: bool | None = None
    boundary: bool = False
    measured_at: datetime | None = None
    steps_remaining: int | None = None
    host_layers_present: tuple[str, ...] = ()
    removed_cleanly: bool = False
