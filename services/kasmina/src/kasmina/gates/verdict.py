"""What a gate says: passed, failed, or not yet to be told, with the numbers it looked at."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Finding = Literal["passed", "failed", "undecided"]
OK = "ok"


@dataclass(frozen=True, slots=True)
class Threshold:
    """A measured number, the bound that applies, and whether it holds."""

    name: str
    observed: float
    limit: float
    passed: bool


@dataclass(frozen=True, slots=True)
class Verdict:
    """The finding of one gate.

    Attributes
    ----------
    gate : int
        A value of `leyline.SeedGate`.
    finding : str
        `passed`, `failed` or `undecided`; an undecided gate waits for evidence and is never published.
    reason : str
        A word for programs; `ok` when passed.
    explanation : str
        A sentence for people.
    """

    gate: int
    finding: Finding
    reason: str
    explanation: str
    thresholds: tuple[Threshold, ...] = ()
    missing_layers: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether the gate opened."""
        return self.finding == "passed"

    @property
    def failed(self) -> bool:
        """Whether the gate is shut for good."""
        return self.finding == "failed"


@dataclass(frozen=True, slots=True)
class Check:
    """One condition of a gate with its words for the case that it does not hold."""

    threshold: Threshold
    reason: str
    explanation: str


def at_most(name: str, observed: float, limit: float, reason: str, explanation: str) -> Check:
    """Demand `observed <= limit`; a number that is not finite never holds."""
    return Check(Threshold(name, observed, limit, math.isfinite(observed) and observed <= limit), reason, explanation)


def at_least(name: str, observed: float, limit: float, reason: str, explanation: str) -> Check:
    """Demand `observed >= limit`; a number that is not finite never holds."""
    return Check(Threshold(name, observed, limit, math.isfinite(observed) and observed >= limit), reason, explanation)


def above(name: str, observed: float, limit: float, reason: str, explanation: str) -> Check:
    """Demand `observed > limit`; a number that is not finite never holds."""
    return Check(Threshold(name, observed, limit, math.isfinite(observed) and observed > limit), reason, explanation)


def holds(name: str, condition: bool, reason: str, explanation: str) -> Check:
    """Demand a condition; it shows as 1 against a bound of 1."""
    return at_least(name, float(condition), 1.0, reason, explanation)


def judge(
    gate: int, checks: Iterable[Check], success: str, *, missing: Iterable[str] = (), open_yet: Check | None = None
) -> Verdict:
    """Fold checks into a verdict.

    The first broken check gives the reason. With all checks holding, a non-empty `missing` (names of evidence that
    has not arrived) leaves the gate undecided, and so does `open_yet`, a check that does not hold but still may.
    """
    found = tuple(checks)
    thresholds = tuple(check.threshold for check in found)
    broken = next((check for check in found if not check.threshold.passed), None)
    if broken is not None:
        return Verdict(gate, "failed", broken.reason, broken.explanation, thresholds)
    absent = tuple(missing)
    if absent:
        return Verdict(gate, "undecided", "evidence_missing", f"Not measured yet: {', '.join(absent)}.", thresholds)
    if open_yet is not None:
        return Verdict(gate, "undecided", open_yet.reason, open_yet.explanation, (*thresholds, open_yet.threshold))
    return Verdict(gate, "passed", OK, success, thresholds)


def given_up(verdict: Verdict, waited_steps: int) -> Verdict:
    """Turn an undecided verdict into a failed one after its patience ran out."""
    sentence = f"{verdict.explanation} It stayed so for {waited_steps} steps."
    return Verdict(verdict.gate, "failed", verdict.reason, sentence, verdict.thresholds)
