"""The bounds that the gates apply."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GateLimits:
    """Bounds of all gates; the settings fill them.

    Attributes
    ----------
    gradient_norm_min, gradient_norm_max : float
        G1: L2 norm of the seed's gradients; below it nothing is learnt, above it they explode.
    isolation_cosine_max : float
        G1: largest |cosine| between host and seed gradients in TRAINING.
    loss_ratio_max : float
        G2: loss over the loss at germination.
    output_ratio_max : float
        G2: RMS of the seed's output over that of its host.
    latency_ms_max : float
        G2: extra forward time.
    probes_min : int
        G4: counterfactual probes that must have been made.
    contribution_low_min : float
        G4: the lower end of the interval must lie above this.
    improvement_z : float
        G4: standard errors below the extrapolated curve at which a shortfall counts as significant.
    improvement_tolerance : float
        G4: shortfall that is forgiven, as a fraction of the expected loss.
    """

    gradient_norm_min: float = 1e-10
    gradient_norm_max: float = 1e3
    isolation_cosine_max: float = 0.1
    loss_ratio_max: float = 2.0
    output_ratio_max: float = 4.0
    latency_ms_max: float = 50.0
    probes_min: int = 2
    contribution_low_min: float = 0.0
    improvement_z: float = 1.96
    improvement_tolerance: float = 0.02
