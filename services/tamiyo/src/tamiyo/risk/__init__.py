"""Risk: what may go wrong with a proposal, and how it is made safer."""

from tamiyo.risk.engine import EVALUATORS, Judgement, judge
from tamiyo.risk.findings import Finding, Situation
from tamiyo.risk.thresholds import RiskThresholds

__all__ = ["EVALUATORS", "Finding", "Judgement", "RiskThresholds", "Situation", "judge"]
