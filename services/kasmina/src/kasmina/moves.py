"""How a seed gets from stage to stage: directives out, results in, and the move made only when all were applied."""

from __future__ import annotations

from datetime import timedelta
from typing import Final

from esper_core import leyline
from kasmina import facts as f
from kasmina.blend import completed, default_blend
from kasmina.directives import Details, DirectiveResult, kernel_at_fault, leaves_nothing, worth_repeating
from kasmina.lifecycle import (
    BLENDING,
    CULLED,
    DORMANT,
    EMBARGOED,
    FOSSILIZED,
    GERMINATED,
    RESETTING,
    TRAINING,
    stage_name,
)
from kasmina.seeds import Seed
from kasmina.turn import Turn

PREPARE: Final[int] = leyline.DIRECTIVE_KIND_PREPARE
ATTACH: Final[int] = leyline.DIRECTIVE_KIND_ATTACH
SET_STAGE: Final[int] = leyline.DIRECTIVE_KIND_SET_STAGE
SET_BLEND: Final[int] = leyline.DIRECTIVE_KIND_SET_BLEND
DETACH: Final[int] = leyline.DIRECTIVE_KIND_DETACH
RESET: Final[int] = leyline.DIRECTIVE_KIND_RESET

_SPECIAL: Final = {GERMINATED: (PREPARE, ATTACH), BLENDING: (SET_STAGE, SET_BLEND)}
_GRACE_S: Final = 5.0


def steps_to(stage: int) -> tuple[int, ...]:
    """Return the kinds of directives that lead to a stage, in order."""
    return _SPECIAL.get(stage, (SET_STAGE,))


def set_out(turn: Turn, seed_id: str, to_stage: int, reason: str, command_id: str = "") -> None:
    """Begin a move."""
    turn.emit(f.MovePlanned(seed_id, to_stage, reason, command_id))
    _give(turn, seed_id, steps_to(to_stage)[0])


def settle(turn: Turn, result: DirectiveResult) -> None:
    """Work off the runtime's answer to a directive; a late answer to a replaced one only moves the clock."""
    seed = turn.ledger.seeds.get(result.seed_id)
    if seed is None or seed.pending is None or seed.pending.directive_id != result.directive_id:
        turn.ledger.read_clock(result.step, result.generation)
        return
    attempt = seed.attempt
    turn.emit(f.DirectiveSettled(result))
    if result.kind in (DETACH, RESET):
        _removed(turn, result, attempt)
    elif result.applied:
        _go_on(turn, result)
    elif worth_repeating(result) and attempt < turn.rules.directive_attempts:
        _give(turn, seed.seed_id, result.kind, attempt + 1)
    else:
        why = result.message or f"the runtime refused with {result.error_code}"
        _give_up(turn, seed.seed_id, result.kind, why, kernel_at_fault(result))


def press_on(turn: Turn, epoch_end: bool) -> None:
    """Look after directives that were never answered and removals that did not succeed."""
    for seed in tuple(turn.ledger.seeds.values()):
        if seed.pending is not None:
            if turn.now > seed.pending.deadline + timedelta(seconds=_GRACE_S):
                _overdue(turn, seed)
        elif epoch_end and seed.stage == CULLED and not seed.closed:
            turn.issue(seed.seed_id, DETACH, "The seed is still attached.", attempt=seed.attempt + 1)
        elif epoch_end and seed.stage == RESETTING and seed.attempt < turn.rules.directive_attempts:
            turn.issue(seed.seed_id, RESET, "Something was left behind.", attempt=seed.attempt + 1)


def give_again(turn: Turn, seed_id: str) -> None:
    """Repeat an unanswered directive, or begin a move anew when none is pending.

    The very same directive goes out again while it can still be applied, so that a runtime that has applied it answers
    from memory; otherwise it is decided anew on the present generation.
    """
    seed = turn.seed(seed_id)
    pending = seed.pending
    if pending is not None and pending.generation == turn.ledger.generation and pending.deadline > turn.now:
        turn.emit(f.DirectiveIssued(pending, seed.attempt))
    elif pending is not None and pending.kind in (DETACH, RESET):
        turn.issue(seed_id, pending.kind, pending.reason, attempt=seed.attempt)
    elif seed.pending is not None:
        _give(turn, seed_id, seed.pending.kind, seed.attempt)
    elif seed.move is not None:
        _give(turn, seed_id, steps_to(seed.move.to_stage)[0])


def catch_up(turn: Turn, seed_id: str) -> None:
    """Take note that the runtime already stands in the stage that a seed was on its way to.

    What comes after the stage itself is given again: nothing says whether it was applied.
    """
    seed = turn.seed(seed_id)
    if seed.move is not None and steps_to(seed.move.to_stage)[-1] == SET_BLEND:
        _give(turn, seed_id, SET_BLEND)
    else:
        arrive(turn, seed_id)


def arrive(turn: Turn, seed_id: str) -> None:
    """Make the planned move."""
    move = turn.seed(seed_id).move
    if move is None:
        return
    turn.move(seed_id, move.to_stage, move.reason, move.command_id)
    if turn.seed(seed_id).stage == FOSSILIZED:
        turn.close(seed_id, "It is part of its host.")


def _go_on(turn: Turn, result: DirectiveResult) -> None:
    seed = turn.seed(result.seed_id)
    if seed.move is None:
        return
    steps = steps_to(seed.move.to_stage)
    following = steps[steps.index(result.kind) + 1 :] if result.kind in steps else steps
    if following:
        _give(turn, seed.seed_id, following[0])
    else:
        arrive(turn, seed.seed_id)


def _give(turn: Turn, seed_id: str, kind: int, attempt: int = 1) -> None:
    """Issue a directive with everything that its kind needs, taken from the seed and its move."""
    seed = turn.seed(seed_id)
    move = seed.move
    ramp = turn.rules.dwell.steps(BLENDING, turn.ledger.total_steps)
    blend = completed(seed.blend, ramp) if seed.blend else default_blend(ramp)
    stage = move.to_stage if move and kind == SET_STAGE else 0
    turn.issue(
        seed_id,
        kind,
        move.reason if move else "The blend was changed by a command.",
        command_id=move.command_id if move else "",
        attempt=attempt,
        details=Details(
            stage=stage,
            isolation=seed.isolation if stage == TRAINING else 0,
            blend=blend if kind in (ATTACH, SET_BLEND) else None,
            kernel=seed.kernel if kind == PREPARE else None,
        ),
    )


def _give_up(turn: Turn, seed_id: str, kind: int, why: str, at_fault: bool = False) -> None:
    """End a move that cannot be made; a germination is embargoed only where its kernel is to blame."""
    seed = turn.seed(seed_id)
    target = seed.move.to_stage if seed.move else seed.stage
    sentence = f"The move to {stage_name(target)} failed: {why}"
    turn.emit(f.MoveAbandoned(seed_id, target, sentence))
    if seed.stage == DORMANT:
        if at_fault:
            turn.embargo(seed_id, sentence)
        turn.close(seed_id, sentence)
    elif kind != SET_BLEND and target != FOSSILIZED:
        turn.cull(seed_id, sentence)


def _removed(turn: Turn, result: DirectiveResult, attempt: int) -> None:
    seed = turn.seed(result.seed_id)
    clean = bool(leaves_nothing(result))
    gone = result.applied or clean
    if seed.stage == CULLED and gone:
        turn.move(seed.seed_id, EMBARGOED, "The seed was detached and its host restored.")
    if not clean and attempt < turn.rules.directive_attempts:
        kind = RESET if gone else result.kind
        turn.issue(seed.seed_id, kind, f"Not removed: {result.message}", attempt=attempt + 1)


def _overdue(turn: Turn, seed: Seed) -> None:
    pending = seed.pending
    if pending is None:
        return
    if pending.kind in (DETACH, RESET):
        turn.issue(seed.seed_id, pending.kind, pending.reason, attempt=seed.attempt + 1)
    elif seed.attempt < turn.rules.directive_attempts:
        _give(turn, seed.seed_id, pending.kind, seed.attempt + 1)
    else:
        _give_up(turn, seed.seed_id, pending.kind, "the runtime never answered.")
