"""How complete the inputs of an evaluation were."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from tamiyo.observation import Figures, Observation

_GROUPS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("loss", ("loss", "loss_delta", "loss_ewma", "loss_volatility")),
    ("gradient", ("gradient_norm", "grad_var", "grad_conflict_rate")),
    ("latency", ("hook_latency_ms", "step_latency_ms", "kasmina_apply_ms", "kasmina_finalize_ms")),
    ("device", ("gpu_mem_free_gb", "gpu_util_percent", "cpu_util_percent")),
)
FEATURES: Final = tuple(name for _, names in _GROUPS for name in names)


@dataclass(frozen=True, slots=True)
class Coverage:
    """Shares of the features that were present, 0 to 1; a feature is there or it is not."""

    groups: tuple[tuple[str, float], ...]
    missing: tuple[str, ...]
    average: float

    @property
    def minimum(self) -> float:
        """Lowest coverage of a group."""
        return min(share for _, share in self.groups)

    @property
    def maximum(self) -> float:
        """Highest coverage of a group."""
        return max(share for _, share in self.groups)


def coverage_of(seen: Observation) -> Coverage:
    """Tell which figures a packet carried."""
    figures: Figures = seen.figures
    there = {name: getattr(figures, name) is not None for name in FEATURES}
    groups = tuple((group, sum(there[name] for name in names) / len(names)) for group, names in _GROUPS)
    missing = tuple(name for name in FEATURES if not there[name])
    return Coverage(groups, missing, 1.0 - len(missing) / len(FEATURES))
