"""Settings of Tamiyo."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field, field_validator
from pydantic_settings import SettingsConfigDict

from esper_core.settings import ServiceSettings
from tamiyo.conservative import DwellRules
from tamiyo.evaluation import Rulebook
from tamiyo.policies import GrowthRules
from tamiyo.reporting.publisher import RetryRules
from tamiyo.reporting.window import WindowRules
from tamiyo.risk import RiskThresholds


class TamiyoSettings(ServiceSettings):
    """Everything that can be set about Tamiyo. Fractions are of a run's budget."""

    model_config = SettingsConfigDict(env_prefix="TAMIYO_")
    required_peers: ClassVar[tuple[str, ...]] = ("urza",)

    step_timeout_ms: float = Field(
        default=5.0, gt=0, description="Time that one whole evaluation may take, in ms; a slower one is a failure."
    )
    step_breaker_failures: int = Field(
        default=3, ge=1, description="Evaluations over budget in a row after which evaluating pauses."
    )
    step_breaker_open_s: float = Field(default=5.0, gt=0, description="How long evaluating pauses then, in seconds.")
    urza_max_age_s: float = Field(
        default=120.0, gt=0, description="Oldest contact with Urza on which seeds are germinated, in seconds."
    )
    policy: Literal["schedule", "heuristic"] = Field(default="schedule", description="Policy of runs that name none.")
    command_deadline_s: float = Field(
        default=30.0, gt=0, le=60, description="How long after its decision a command may be executed, in seconds."
    )

    schedule_fractions: str = Field(
        default="0.08,0.18,0.30,0.42", description="When the schedule germinates its seeds, as rising fractions."
    )
    growth_window_start: float = Field(default=0.03, ge=0, le=1, description="No seed germinates before.")
    growth_window_end: float = Field(default=0.5, ge=0, le=1, description="No seed germinates after.")
    growth_factor_max: float = Field(
        default=2.0, gt=1, description="Most parameters after a growth step, over those before it."
    )
    expansions: str = Field(
        default="1.75,1.5,1,0.75,0.5,0.25,0.125",
        description="Expansions tried, the largest that fits is taken; empty for the blueprint's default.",
    )
    sites_preferred: str = Field(default="", description="Sites grown first where they exist, separated by commas.")
    culled_rest: float = Field(
        default=0.25, ge=0, le=1, description="Share of the budget for which a culled pair of site and blueprint rests."
    )
    seed_patience_s: float = Field(
        default=30.0, gt=0, description="How long a germination may stay without its seed, in seconds."
    )
    command_repeat_s: float = Field(
        default=5.0, gt=0, description="Wait before a settling command is sent again, in seconds."
    )
    final_repeat_s: float = Field(default=1.5, gt=0, description="The same at a run's last fence, in seconds.")
    final_patience_s: float = Field(
        default=4.0, gt=0, description="Time for evidence at a run's last fence before unproved seeds go, in seconds."
    )
    harm_tolerance: float = Field(
        default=0.05, ge=0, description="Relative rise of the loss since germination that a kept seed is forgiven."
    )
    flat_window: float = Field(default=0.03, gt=0, le=0.5, description="Heuristic: window in which the loss is flat.")
    flat_gain: float = Field(default=0.4, gt=0, description="Heuristic: relative fall of the loss that is still flat.")
    overfit_ratio: float = Field(
        default=1.4, ge=1, description="Heuristic: validation loss over training loss that means overfitting."
    )

    risk_policy_critical: float = Field(default=0.98, ge=0, le=1, description="Policy's own risk that holds.")
    risk_policy_elevated: float = Field(default=0.85, ge=0, le=1, description="Policy's own risk that softens.")
    risk_blueprint_hard: float = Field(default=0.8, ge=0, le=1, description="Risk of a blueprint that holds.")
    risk_blueprint_soft: float = Field(
        default=0.5, ge=0, le=1, description="Risk of a blueprint above which is softened."
    )
    risk_loss_spike: float = Field(default=0.15, gt=0, description="Rise of the loss that holds.")
    risk_loss_warning: float = Field(default=0.075, gt=0, description="Rise of the loss that softens.")
    risk_hook_ms: float = Field(default=50.0, gt=0, description="Time of Esper's hooks that holds, in ms.")
    risk_step_ms: float = Field(default=120.0, gt=0, description="Time of a step that softens, in ms.")
    risk_kasmina_ms: float = Field(default=30.0, gt=0, description="Time of a graft that softens, in ms.")
    risk_gpu_util_percent: float = Field(default=95.0, gt=0, le=100, description="Load of the device, in percent.")
    risk_gpu_free_gb: float = Field(default=0.2, ge=0, description="Free memory of a loaded device that holds, in GiB.")
    risk_cpu_util_percent: float = Field(default=95.0, gt=0, le=100, description="Load of the processor, in percent.")
    risk_loss_volatility: float = Field(default=0.1125, gt=0, description="Volatility of the loss that softens.")
    risk_grad_var: float = Field(default=1.0, gt=0, description="Variance of the gradient norm that softens.")
    risk_grad_conflict: float = Field(
        default=0.5, gt=0, le=1, description="Share of conflicting gradients that softens."
    )

    conservative_dwell_s: float = Field(default=30.0, ge=0, description="Dwell of conservative mode, in seconds.")
    conservative_dwell_evaluations: int = Field(
        default=50, ge=1, description="Dwell of conservative mode in evaluations; the shorter of both counts."
    )
    conservative_healthy: int = Field(
        default=10, ge=1, description="Healthy evaluations in a row that end conservative mode."
    )

    fr_obs_window_epochs: int = Field(default=2, ge=1, description="Observation window of a command, in epochs.")
    fr_max_window_epochs: int = Field(
        default=40, ge=1, description="Longest wait for a germinated seed to be settled, in epochs."
    )
    fr_run_silent_s: float = Field(
        default=600.0,
        gt=0,
        description="Silence after which a run counts as gone and its reports as ABORTED, in seconds.",
    )
    fr_neutral_change: float = Field(
        default=0.02, ge=0, description="Relative change of the loss that counts as none in a field report."
    )
    fr_retry_backoff_ms: float = Field(
        default=1000.0, gt=0, description="First wait before a report is sent again, in ms."
    )
    fr_retry_backoff_mult: float = Field(
        default=2.0, ge=1, description="Growth of that wait from one retry to the next."
    )
    fr_max_retries: int = Field(
        default=3, ge=0, description="Retries before a report leaves the queue; the journal keeps it."
    )
    wal_strict_validation: bool = Field(
        default=True, description="Refuse journal records that break the contract; each is skipped and told."
    )
    decisions_kept: int = Field(
        default=5_000, ge=100, description="Decisions kept in the journal when it is compacted at start."
    )
    reports_kept: int = Field(
        default=50_000, ge=100, description="Field reports kept when the journal is compacted at start."
    )
    journal_waits: Literal["changes", "all"] = Field(
        default="changes", description="Journal no-actions only when their reason changes, or all of them."
    )

    @field_validator("schedule_fractions")
    @classmethod
    def _rising(cls, value: str) -> str:
        numbers = _numbers(value)
        if not numbers or list(numbers) != sorted(set(numbers)) or not 0 <= numbers[0] <= numbers[-1] <= 1:
            raise ValueError("it must be rising fractions from 0 to 1, separated by commas")
        return value

    @field_validator("expansions")
    @classmethod
    def _positive(cls, value: str) -> str:
        if any(number <= 0 for number in _numbers(value)):
            raise ValueError("it must be numbers above 0, separated by commas")
        return value

    def rulebook(self) -> Rulebook:
        """Return the bounds of policies, risk engine and conservative mode."""
        dwell = DwellRules(self.conservative_dwell_s, self.conservative_dwell_evaluations, self.conservative_healthy)
        return Rulebook(self._growth(), self._risk(), dwell, self.policy)

    def window_rules(self) -> WindowRules:
        """Return the lengths of observation windows."""
        return WindowRules(
            self.fr_obs_window_epochs, self.fr_max_window_epochs, self.seed_patience_s, self.fr_neutral_change
        )

    def retry_rules(self) -> RetryRules:
        """Return the waits between tries to publish a report."""
        return RetryRules(self.fr_retry_backoff_ms / 1000.0, self.fr_retry_backoff_mult, self.fr_max_retries)

    def _growth(self) -> GrowthRules:
        return GrowthRules(
            fractions=_numbers(self.schedule_fractions),
            window_start=self.growth_window_start,
            window_end=self.growth_window_end,
            growth_max=self.growth_factor_max,
            expansions=_numbers(self.expansions),
            sites_preferred=tuple(name.strip() for name in self.sites_preferred.split(",") if name.strip()),
            culled_rest=self.culled_rest,
            seed_patience_s=self.seed_patience_s,
            repeat_s=self.command_repeat_s,
            final_repeat_s=self.final_repeat_s,
            final_patience_s=self.final_patience_s,
            harm_tolerance=self.harm_tolerance,
            flat_window=self.flat_window,
            flat_gain=self.flat_gain,
            overfit_ratio=self.overfit_ratio,
        )

    def _risk(self) -> RiskThresholds:
        return RiskThresholds(
            policy_critical=self.risk_policy_critical,
            policy_elevated=self.risk_policy_elevated,
            step_budget_ms=self.step_timeout_ms,
            urza_age_s=self.urza_max_age_s,
            blueprint_hard=self.risk_blueprint_hard,
            blueprint_soft=self.risk_blueprint_soft,
            loss_spike=self.risk_loss_spike,
            loss_warning=self.risk_loss_warning,
            hook_ms=self.risk_hook_ms,
            step_ms=self.risk_step_ms,
            kasmina_ms=self.risk_kasmina_ms,
            gpu_util_percent=self.risk_gpu_util_percent,
            gpu_free_gb=self.risk_gpu_free_gb,
            cpu_util_percent=self.risk_cpu_util_percent,
            loss_volatility=self.risk_loss_volatility,
            grad_var=self.risk_grad_var,
            grad_conflict=self.risk_grad_conflict,
        )


def _numbers(text: str) -> tuple[float, ...]:
    return tuple(float(part) for part in text.split(",") if part.strip())
