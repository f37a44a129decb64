"""What a command turned out to be worth: from contribution and change of loss, never from what was intended."""

from __future__ import annotations

from dataclasses import dataclass

from esper_core import leyline


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the window of a command showed.

    Attributes
    ----------
    kept : bool
        Whether its seed is part of the model now.
    removed : bool
        Whether its seed was taken out.
    contribution_low, contribution_high : float or None
        Interval of the seed's last paired counterfactual.
    loss_before, loss_after : float or None
        Validation loss where there are passes on both sides, smoothed training loss otherwise.
    """

    operation: int
    kept: bool = False
    removed: bool = False
    contribution_low: float | None = None
    contribution_high: float | None = None
    loss_before: float | None = None
    loss_after: float | None = None

    @property
    def change(self) -> float | None:
        """Relative change of the loss, negative is better; None where it is not known."""
        if self.loss_before is None or self.loss_after is None or self.loss_before <= 0:
            return None
        return self.loss_after / self.loss_before - 1.0


def outcome_of(evidence: Evidence, neutral: float) -> int:
    """Return a value of `leyline.FieldReportOutcome`.

    A seed that stays is judged by its contribution first: SUCCESS when its interval lies above zero, REGRESSION when it
    lies below. Removing a seed whose contribution was at most zero is a SUCCESS. Otherwise a rise of the loss beyond
    `neutral` is a REGRESSION. A fall alone is never called a success: the loss of a training network falls anyway.

    Parameters
    ----------
    evidence : Evidence
        What the window showed.
    neutral : float
        Relative change of the loss that counts as none.
    """
    low, high = evidence.contribution_low, evidence.contribution_high
    if evidence.operation == leyline.SEED_OPERATION_CULL:
        if high is not None and high <= 0.0:
            return leyline.FIELD_REPORT_OUTCOME_SUCCESS
    elif evidence.kept:
        if low is not None and low > 0.0:
            return leyline.FIELD_REPORT_OUTCOME_SUCCESS
        if high is not None and high < 0.0:
            return leyline.FIELD_REPORT_OUTCOME_REGRESSION
    change = evidence.change
    if change is not None and change > neutral:
        return leyline.FIELD_REPORT_OUTCOME_REGRESSION
    return leyline.FIELD_REPORT_OUTCOME_NEUTRAL
