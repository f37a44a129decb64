"""Settings of Kasmina."""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from esper_core.settings import ServiceSettings
from kasmina.dwell import DwellPolicy
from kasmina.gates.limits import GateLimits
from kasmina.rules import Rules


class KasminaSettings(ServiceSettings):
    """Everything that can be set about Kasmina. Dwells are fractions of a run's planned optimizer steps."""

    model_config = SettingsConfigDict(env_prefix="KASMINA_")
    required_peers: ClassVar[tuple[str, ...]] = ("urza",)

    freshness_window_s: float = Field(
        default=60.0, gt=0, le=600, description="Oldest command that is accepted, in seconds; no sender can widen it."
    )
    future_skew_s: float = Field(default=5.0, ge=0, description="How far ahead a command may be dated, in seconds.")
    nonce_ttl_s: float = Field(default=300.0, gt=0, description="How long a nonce is remembered at most, in seconds.")
    nonce_capacity: int = Field(default=10_000, ge=1, description="Most nonces that are remembered at a time.")
    kernel_wait_s: float = Field(
        default=20.0, gt=0, description="How long a germination waits for its kernel before it is refused, in seconds."
    )
    kernels_kept: int = Field(
        default=4096, ge=1, description="Most kernels whose descriptors are remembered; others are asked of Urza again."
    )
    prefetch_budget_s: float = Field(
        default=30.0, gt=0, description="Expected time of a kernel prefetch, in seconds; told as late after twice that."
    )
    live_seeds: int = Field(default=1, ge=1, description="Seeds that may be under way in one run at a time.")
    training_fraction: float = Field(default=0.02, ge=0, le=0.5, description="Least share of the run in TRAINING.")
    blending_fraction: float = Field(
        default=0.05, gt=0, le=0.5, description="Share of the run over which alpha ramps, where a command says nothing."
    )
    shadowing_fraction: float = Field(default=0.02, ge=0, le=0.5, description="Least share of the run in SHADOWING.")
    probationary_fraction: float = Field(
        default=0.03, ge=0, le=0.5, description="Least share of the run in PROBATIONARY."
    )
    training_min_steps: int = Field(default=10, ge=1, description="Least steps in TRAINING, for short runs.")
    blending_min_steps: int = Field(default=10, ge=1, description="Least steps of the ramp, for short runs.")
    shadowing_min_steps: int = Field(default=5, ge=1, description="Least steps in SHADOWING, for short runs.")
    probationary_min_steps: int = Field(default=5, ge=1, description="Least steps in PROBATIONARY, for short runs.")
    patience: float = Field(
        default=5.0, ge=1, description="A stage gives up on missing evidence after this many times its dwell."
    )
    embargo_s: float = Field(
        default=900.0, ge=0, description="Seconds before a culled pair of site and blueprint may meet again."
    )
    embargo_epochs: int = Field(default=10, ge=0, description="Epochs after which they may meet again in any case.")
    directive_timeout_s: float = Field(
        default=30.0, gt=0, description="Time that the runtime has to apply a directive, in seconds."
    )
    directive_attempts: int = Field(default=3, ge=1, description="Times a directive is given before it is given up.")
    probes_min: int = Field(default=2, ge=1, description="Counterfactual probes that G4 needs.")
    loss_ratio_max: float = Field(
        default=2.0, gt=1, description="G2: loss over the loss at germination above which a seed is culled."
    )
    output_ratio_max: float = Field(
        default=4.0, gt=0, description="G2: strength of a seed's output over its host's above which it is culled."
    )
    latency_ms_max: float = Field(default=50.0, gt=0, description="G2: most extra forward time of a seed, in ms.")
    improvement_z: float = Field(
        default=1.96, ge=0, description="G4: standard errors below the extrapolated curve that count as harm."
    )
    improvement_tolerance: float = Field(
        default=0.02, ge=0, description="G4: shortfall that is forgiven, as a share of the expected loss."
    )

    def rules(self) -> Rules:
        """Return the bounds of the run's state machine."""
        return Rules(
            dwell=self._dwell(),
            limits=self._limits(),
            live_seeds=self.live_seeds,
            embargo_s=self.embargo_s,
            embargo_epochs=self.embargo_epochs,
            directive_timeout_s=self.directive_timeout_s,
            directive_attempts=self.directive_attempts,
        )

    def _dwell(self) -> DwellPolicy:
        return DwellPolicy(
            training=self.training_fraction,
            blending=self.blending_fraction,
            shadowing=self.shadowing_fraction,
            probationary=self.probationary_fraction,
            training_min_steps=self.training_min_steps,
            blending_min_steps=self.blending_min_steps,
            shadowing_min_steps=self.shadowing_min_steps,
            probationary_min_steps=self.probationary_min_steps,
            patience=self.patience,
        )

    def _limits(self) -> GateLimits:
        return GateLimits(
            loss_ratio_max=self.loss_ratio_max,
            output_ratio_max=self.output_ratio_max,
            latency_ms_max=self.latency_ms_max,
            probes_min=self.probes_min,
            improvement_z=self.improvement_z,
            improvement_tolerance=self.improvement_tolerance,
        )
