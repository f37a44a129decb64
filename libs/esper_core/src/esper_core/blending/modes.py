"""Blend modes and alpha schedules; the values are Leyline's."""

from __future__ import annotations

from typing import Final

from esper_core import leyline

CONVEX: Final[int] = leyline.BLEND_MODE_CONVEX
RESIDUAL: Final[int] = leyline.BLEND_MODE_RESIDUAL
CHANNEL: Final[int] = leyline.BLEND_MODE_CHANNEL
CONFIDENCE: Final[int] = leyline.BLEND_MODE_CONFIDENCE

BLEND_MODES: Final[dict[int, str]] = {
    CONVEX: "CONVEX",
    RESIDUAL: "RESIDUAL",
    CHANNEL: "CHANNEL",
    CONFIDENCE: "CONFIDENCE",
}

LINEAR: Final[int] = leyline.ALPHA_SCHEDULE_LINEAR
COSINE: Final[int] = leyline.ALPHA_SCHEDULE_COSINE
SIGMOID: Final[int] = leyline.ALPHA_SCHEDULE_SIGMOID

ALPHA_SCHEDULES: Final[dict[int, str]] = {LINEAR: "LINEAR", COSINE: "COSINE", SIGMOID: "SIGMOID"}
