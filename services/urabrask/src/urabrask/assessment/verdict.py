"""From hazards to a risk score, from the score to a band, from the band to what may be done."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from esper_core import leyline
from urabrask.assessment.hazards import Hazard, find_hazards
from urabrask.assessment.observations import Observations

Band: TypeAlias = leyline.HazardBand.ValueType
Handling: TypeAlias = leyline.HandlingClass.ValueType

BANDS: Final[tuple[tuple[float, Band], ...]] = (
    (0.85, leyline.HAZARD_BAND_CRITICAL),
    (0.60, leyline.HAZARD_BAND_HIGH),
    (0.30, leyline.HAZARD_BAND_MEDIUM),
    (0.0, leyline.HAZARD_BAND_LOW),
)
"""Lowest score of each band, the worst band first."""

HANDLING: Final[dict[Band, Handling]] = {
    leyline.HAZARD_BAND_LOW: leyline.HANDLING_CLASS_STANDARD,
    leyline.HAZARD_BAND_MEDIUM: leyline.HANDLING_CLASS_STANDARD,
    leyline.HAZARD_BAND_HIGH: leyline.HANDLING_CLASS_RESTRICTED,
    leyline.HAZARD_BAND_CRITICAL: leyline.HANDLING_CLASS_QUARANTINE,
}

_HARMLESS: Final = "Nothing speaks against it at this shape."


@dataclass(frozen=True, slots=True)
class Verdict:
    """What an assessment says.

    Attributes
    ----------
    hazards : tuple of Hazard
        Most severe first.
    risk_score : float
        0 to 1.
    hazard_band, handling_class : int
        Values of Leyline's HazardBand and HandlingClass.
    mitigation : str
        What to do, in a sentence.
    """

    hazards: tuple[Hazard, ...]
    risk_score: float
    hazard_band: Band
    handling_class: Handling
    mitigation: str


def risk_score(hazards: Sequence[Hazard]) -> float:
    """Return the chance that at least one of the hazards strikes, taken as independent: 1 - Π(1 - severity)."""
    score = 1.0 - math.prod(1.0 - hazard.severity for hazard in hazards)
    # Rounded, so that 0.85 does not miss its band by the last bit of a product.
    return round(score, 6)


def band_of(score: float) -> Band:
    """Return the hazard band of a score.

    Raises
    ------
    ValueError
        If the score does not lie in [0, 1].
    """
    if not 0 <= score <= 1:
        raise ValueError(f"a risk score lies between 0 and 1, not at {score}")
    return next(band for lowest, band in BANDS if score >= lowest)


def handling_of(band: Band) -> Handling:
    """Return what a band means for use."""
    return HANDLING[band]


def judge(hazards: Sequence[Hazard]) -> Verdict:
    """Return the verdict on some hazards."""
    ordered = tuple(sorted(hazards, key=lambda hazard: -hazard.severity))
    score = risk_score(ordered)
    band = band_of(score)
    mitigation = ordered[0].mitigation if ordered else _HARMLESS
    return Verdict(ordered, score, band, handling_of(band), mitigation)


def judge_trial(seen: Observations) -> Verdict:
    """Return the verdict on a trial."""
    return judge(find_hazards(seen))
