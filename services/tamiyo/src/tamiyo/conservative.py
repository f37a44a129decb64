"""Conservative mode of one run: entered for a grave reason, left after a dwell and a row of healthy evaluations.

CLOSED means off. OPEN means on, until the dwell is over; HALF_OPEN still means on, while healthy evaluations are
counted. The evaluation that enters the mode never leaves it. What an operator switched on only an operator ends.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from esper_core import leyline


@dataclass(frozen=True, slots=True)
class DwellRules:
    """How long the mode stays on: the first of both dwells counts, then `healthy_needed` evaluations in a row."""

    dwell_s: float = 30.0
    dwell_evaluations: int = 50
    healthy_needed: int = 10


@dataclass(frozen=True, slots=True)
class Mode:
    """Where the mode stands.

    Attributes
    ----------
    state : int
        A value of `leyline.CircuitState`.
    reason : str
        Why it was entered last.
    since_s : float
        Monotonic time of that.
    evaluations : int
        Evaluations since then.
    healthy : int
        Healthy evaluations in a row in HALF_OPEN.
    by_operator : bool
        Whether an operator switched it on.
    """

    state: int = leyline.CIRCUIT_STATE_CLOSED
    reason: str = ""
    since_s: float = 0.0
    evaluations: int = 0
    healthy: int = 0
    by_operator: bool = False

    @property
    def on(self) -> bool:
        """Whether the run is in conservative mode."""
        return self.state != leyline.CIRCUIT_STATE_CLOSED

    def entered(self, reason: str, now_s: float, *, by_operator: bool = False) -> Mode:
        """Return the mode switched on; a mode that is on starts its dwell anew."""
        return Mode(leyline.CIRCUIT_STATE_OPEN, reason, now_s, by_operator=by_operator or self.by_operator)

    def left(self) -> Mode:
        """Return the mode switched off by an operator."""
        return Mode()

    def after(self, grave: str, healthy: bool, now_s: float, rules: DwellRules) -> Mode:
        """Return the mode after one evaluation.

        Parameters
        ----------
        grave : str
            Why the mode must be entered; empty when nothing grave was found.
        healthy : bool
            Whether nothing at all was found.
        now_s : float
            Monotonic time.
        rules : DwellRules
            When it may be left.
        """
        if grave:
            return self.entered(grave, now_s)
        if not self.on or self.by_operator:
            return self
        counted = replace(self, evaluations=self.evaluations + 1)
        if self.state == leyline.CIRCUIT_STATE_OPEN:
            return counted._dwelt(now_s, rules)
        return counted._recovering(healthy, rules)

    def _dwelt(self, now_s: float, rules: DwellRules) -> Mode:
        over = now_s - self.since_s >= rules.dwell_s or self.evaluations >= rules.dwell_evaluations
        return replace(self, state=leyline.CIRCUIT_STATE_HALF_OPEN, healthy=0) if over else self

    def _recovering(self, healthy: bool, rules: DwellRules) -> Mode:
        row = self.healthy + 1 if healthy else 0
        return Mode() if row >= rules.healthy_needed else replace(self, healthy=row)
