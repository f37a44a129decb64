"""The lifecycle stages as the runtime sees them; the values are Leyline's."""

from __future__ import annotations

from typing import Final

from esper_core import leyline
from esper_core.errors import ValidationError

GERMINATED: Final[int] = leyline.SEED_STAGE_GERMINATED
TRAINING: Final[int] = leyline.SEED_STAGE_TRAINING
BLENDING: Final[int] = leyline.SEED_STAGE_BLENDING
SHADOWING: Final[int] = leyline.SEED_STAGE_SHADOWING
PROBATIONARY: Final[int] = leyline.SEED_STAGE_PROBATIONARY
FOSSILIZED: Final[int] = leyline.SEED_STAGE_FOSSILIZED

SETTABLE: Final[frozenset[int]] = frozenset({GERMINATED, TRAINING, BLENDING, SHADOWING, PROBATIONARY})
"""Stages that `Host.set_stage` accepts; FOSSILIZED and the way out have operations of their own."""

FULL_ALPHA: Final[frozenset[int]] = frozenset({SHADOWING, PROBATIONARY, FOSSILIZED})
"""Stages in which the seed stands at its target alpha."""

FREEZE: Final[int] = leyline.ISOLATION_MODE_FREEZE
SHADOW: Final[int] = leyline.ISOLATION_MODE_SHADOW
STRAIGHT_THROUGH: Final[int] = leyline.ISOLATION_MODE_STRAIGHT_THROUGH

ISOLATIONS: Final[dict[int, str]] = {FREEZE: "FREEZE", SHADOW: "SHADOW", STRAIGHT_THROUGH: "STRAIGHT_THROUGH"}


def stage_name(stage: int) -> str:
    """Return Leyline's name of a stage without its prefix, for messages to people."""
    return str(leyline.SeedStage.Name(leyline.SeedStage.ValueType(stage))).removeprefix("SEED_STAGE_")


def check_settable(stage: int) -> None:
    """Refuse a stage that `Host.set_stage` may not set."""
    if stage not in SETTABLE:
        raise ValidationError(
            f"Stage {stage} cannot be set on a seed; fossilise and cull are operations of their own.",
            field="stage",
            allowed=[stage_name(known) for known in sorted(SETTABLE)],
        )


def check_isolation(isolation: int) -> None:
    """Refuse an isolation mode that does not exist."""
    if isolation not in ISOLATIONS:
        raise ValidationError(
            f"Isolation mode {isolation} does not exist; choose one of the allowed modes.",
            field="isolation",
            allowed=list(ISOLATIONS.values()),
        )
