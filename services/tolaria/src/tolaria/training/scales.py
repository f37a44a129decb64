"""By how much the gradients of an owner's parameters count: the host's always by 1, a seed's as its run says.

Owners have no parameter in common, so a scale moves nothing but its own seed. Under an optimizer that divides by the
size of gradients a constant factor cancels out; what is left is its effect on the first steps of a stage.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Final

from esper_core import leyline
from tolaria.training.plan import GradientScale

LARGEST: Final = 100.0
STAGES: Final = (
    leyline.SEED_STAGE_TRAINING,
    leyline.SEED_STAGE_BLENDING,
    leyline.SEED_STAGE_SHADOWING,
    leyline.SEED_STAGE_PROBATIONARY,
)
"""Stages in which a seed has gradients of its own; one that is FOSSILIZED belongs to the host."""

_WORDS: Final = "TRAINING, BLENDING, SHADOWING or PROBATIONARY, unspecified for all of them"


def read_scales(messages: Sequence[leyline.GradientScale]) -> tuple[GradientScale, ...]:
    """Take scales from their messages, as they are."""
    return tuple(GradientScale(message.site, message.stage, message.scale) for message in messages)


def scale_of(scales: Sequence[GradientScale], site: str, stage: int) -> float:
    """Return the factor of a seed at a site in a stage: the most exact that applies, 1 where none does."""
    if stage not in STAGES:
        return 1.0
    found = {(scale.site, scale.stage): scale.scale for scale in scales}
    keys = ((site, stage), (site, 0), ("", stage), ("", 0))
    return next((found[key] for key in keys if key in found), 1.0)


def faults(scales: Sequence[GradientScale]) -> Iterator[tuple[str, str, str]]:
    """Yield what is wrong with some scales: the field, a sentence, and what is allowed."""
    for scale in scales:
        if not (math.isfinite(scale.scale) and 0.0 < scale.scale <= LARGEST):
            allowed = f"a number above 0, at most {LARGEST:g}"
            yield "spec.gradient_scales.scale", f"Gradients cannot be scaled by {scale.scale}.", allowed
        if scale.stage and scale.stage not in STAGES:
            yield "spec.gradient_scales.stage", f"Seeds have no gradients to scale in stage {scale.stage}.", _WORDS
    if len({(scale.site, scale.stage) for scale in scales}) < len(scales):
        yield "spec.gradient_scales", "A site and stage are given more than one scale.", "each site and stage once"
