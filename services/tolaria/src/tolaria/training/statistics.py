"""Smoothed loss, its volatility, and how the gradient norm varies; plain numbers, cheap enough for every step."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, Final

_WINDOW: Final = 50
_DECAY: Final = 0.95
_FIRST: Final = 10


class LossStatistics:
    """What the loop remembers about its losses and gradient norms.

    Attributes
    ----------
    loss_ewma : float or None
        Exponentially smoothed loss, None before the first step.
    gradient_norm_ewma : float or None
        Exponentially smoothed gradient norm.
    first_loss : float or None
        Mean of the first ten losses, the yardstick for an explosion: of this run, or of the one that its model was
        trained in before where those were higher. A trained model begins with a loss so small that its noise would
        count as one.
    """

    __slots__ = ("_first_sum", "_former", "_losses", "_norms", "_seen", "gradient_norm_ewma", "loss_ewma")

    def __init__(self) -> None:
        self.loss_ewma: float | None = None
        self.gradient_norm_ewma: float | None = None
        self._losses: deque[float] = deque(maxlen=_WINDOW)
        self._norms: deque[float] = deque(maxlen=_WINDOW)
        self._first_sum = 0.0
        self._former = 0.0
        self._seen = 0

    def come_after(self, former: LossStatistics) -> None:
        """Take over the yardstick of the run that the model comes from."""
        self._former = former.first_loss or 0.0

    def observe(self, loss: float, gradient_norm: float) -> None:
        """Take note of one finished step."""
        if self.loss_ewma is None or self.gradient_norm_ewma is None:
            self.loss_ewma, self.gradient_norm_ewma = loss, gradient_norm
        else:
            self.loss_ewma = _DECAY * self.loss_ewma + (1.0 - _DECAY) * loss
            self.gradient_norm_ewma = _DECAY * self.gradient_norm_ewma + (1.0 - _DECAY) * gradient_norm
        self._losses.append(loss)
        self._norms.append(gradient_norm)
        if self._seen < _FIRST:
            self._first_sum += loss
            self._seen += 1

    @property
    def first_loss(self) -> float | None:
        """Yardstick for an explosion, None until ten steps were made."""
        return max(self._former, self._first_sum / _FIRST) if self._seen == _FIRST else None

    @property
    def volatility(self) -> float | None:
        """Standard deviation of the recent losses over their mean."""
        mean, variance = _moments(self._losses)
        return variance**0.5 / abs(mean) if mean and len(self._losses) > 1 else None

    @property
    def gradient_variance(self) -> float | None:
        """Variance of the recent gradient norms over their squared mean."""
        mean, variance = _moments(self._norms)
        return variance / mean**2 if mean and len(self._norms) > 1 else None

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for a checkpoint."""
        return {
            "loss_ewma": self.loss_ewma,
            "gradient_norm_ewma": self.gradient_norm_ewma,
            "losses": list(self._losses),
            "norms": list(self._norms),
            "first_sum": self._first_sum,
            "former": self._former,
            "seen": self._seen,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> LossStatistics:
        """Read what `to_dict` wrote."""
        statistics = cls()
        statistics.loss_ewma = data["loss_ewma"]
        statistics.gradient_norm_ewma = data["gradient_norm_ewma"]
        statistics._losses.extend(data["losses"])
        statistics._norms.extend(data["norms"])
        statistics._first_sum = data["first_sum"]
        statistics._former = data["former"]
        statistics._seen = data["seen"]
        return statistics


def _moments(values: deque[float]) -> tuple[float, float]:
    if not values:
        return 0.0, 0.0
    mean = sum(values) / len(values)
    return mean, sum((value - mean) ** 2 for value in values) / len(values)
