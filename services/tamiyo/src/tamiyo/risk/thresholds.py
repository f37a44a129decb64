"""The bounds of the risk engine; the settings fill them."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RiskThresholds:
    """Where an observation becomes a finding. Losses are absolute, times in ms, memory in GiB, ages in seconds."""

    policy_critical: float = 0.98
    policy_elevated: float = 0.85
    step_budget_ms: float = 5.0
    urza_age_s: float = 120.0
    blueprint_hard: float = 0.8
    blueprint_soft: float = 0.5
    loss_spike: float = 0.15
    loss_warning: float = 0.075
    hook_ms: float = 50.0
    step_ms: float = 120.0
    kasmina_ms: float = 30.0
    gpu_util_percent: float = 95.0
    gpu_free_gb: float = 0.2
    cpu_util_percent: float = 95.0
    loss_volatility: float = 0.1125
    grad_var: float = 1.0
    grad_conflict: float = 0.5
    learning_rate_factor: float = 1.5
