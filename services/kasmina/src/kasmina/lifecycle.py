"""The lifecycle of a seed: which stage may follow which, derived from Leyline's enum and checked against it at import.

The way forward is the enum's own order from DORMANT to FOSSILIZED; the way out leads over CULLED, EMBARGOED and
RESETTING back to DORMANT. Nothing else is possible, whoever asks.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from types import MappingProxyType
from typing import Final

from esper_core import leyline
from esper_core.errors import InternalError, StateConflictError

DORMANT: Final[int] = leyline.SEED_STAGE_DORMANT
GERMINATED: Final[int] = leyline.SEED_STAGE_GERMINATED
TRAINING: Final[int] = leyline.SEED_STAGE_TRAINING
BLENDING: Final[int] = leyline.SEED_STAGE_BLENDING
SHADOWING: Final[int] = leyline.SEED_STAGE_SHADOWING
PROBATIONARY: Final[int] = leyline.SEED_STAGE_PROBATIONARY
FOSSILIZED: Final[int] = leyline.SEED_STAGE_FOSSILIZED
CULLED: Final[int] = leyline.SEED_STAGE_CULLED
EMBARGOED: Final[int] = leyline.SEED_STAGE_EMBARGOED
RESETTING: Final[int] = leyline.SEED_STAGE_RESETTING
TERMINATED: Final[int] = leyline.SEED_STAGE_TERMINATED

ALL_STAGES: Final[tuple[int, ...]] = tuple(sorted(v for v in leyline.SeedStage.values() if v))
FORWARD: Final[tuple[int, ...]] = tuple(stage for stage in ALL_STAGES if stage <= FOSSILIZED)
ATTACHED: Final[frozenset[int]] = frozenset(stage for stage in FORWARD if GERMINATED <= stage <= PROBATIONARY)
"""Stages in which the runtime holds the seed beside its host, so that it can still be removed."""


def _derived() -> Mapping[int, frozenset[int]]:
    table: dict[int, set[int]] = {stage: set() for stage in ALL_STAGES}
    for before, after in pairwise(FORWARD):
        table[before].add(after)
    for stage in ATTACHED:
        table[stage].add(CULLED)
    table[FOSSILIZED].add(TERMINATED)
    table[DORMANT].add(TERMINATED)
    for before, after in ((CULLED, EMBARGOED), (EMBARGOED, RESETTING), (RESETTING, DORMANT)):
        table[before].add(after)
    return MappingProxyType({stage: frozenset(after) for stage, after in table.items()})


def check_table(table: Mapping[int, Iterable[int]], stages: Iterable[int]) -> None:
    """Hold a table against a set of stages.

    Raises
    ------
    InternalError
        If a stage has no row, a row has no stage, or a stage other than DORMANT can never be reached.
    """
    known = set(stages)
    reached = {after for row in table.values() for after in row}
    if set(table) != known or not reached <= known or known - reached - {DORMANT}:
        raise InternalError("The lifecycle table and Leyline's SeedStage differ. Bring lifecycle.py up to date.")


TRANSITIONS: Final[Mapping[int, frozenset[int]]] = _derived()
check_table(TRANSITIONS, ALL_STAGES)


def stage_name(stage: int) -> str:
    """Return Leyline's name of a stage without its prefix."""
    if stage not in ALL_STAGES:
        return f"stage {stage}"
    return str(leyline.SeedStage.Name(leyline.SeedStage.ValueType(stage))).removeprefix("SEED_STAGE_")


def is_legal(before: int, after: int) -> bool:
    """Tell whether a seed may move from one stage to another."""
    return after in TRANSITIONS.get(before, frozenset())


def require_legal(before: int, after: int) -> None:
    """Refuse a transition that the table does not have.

    Raises
    ------
    StateConflictError
        Naming both stages and what would have been possible.
    """
    if not is_legal(before, after):
        possible = ", ".join(stage_name(stage) for stage in sorted(TRANSITIONS.get(before, ()))) or "nothing"
        raise StateConflictError(
            f"A seed cannot go from {stage_name(before)} to {stage_name(after)}; possible is {possible}.",
            details={"from": stage_name(before), "to": stage_name(after)},
        )


def next_forward(stage: int) -> int:
    """Return the stage after `stage` on the way to FOSSILIZED."""
    return FORWARD[FORWARD.index(stage) + 1]
