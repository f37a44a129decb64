"""After a reconnection: what the journal says against what the runtime holds, each difference resolved and told.

The journal is the truth about the lifecycle, the runtime is the truth about the model. So a seed that the runtime lost
is gone, a seed that the journal never planted is removed, and a stage that differs is taken from the runtime.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kasmina import facts as f
from kasmina.lifecycle import ATTACHED, CULLED, DORMANT, FOSSILIZED, stage_name
from kasmina.moves import DETACH, catch_up, give_again
from kasmina.seeds import Seed
from kasmina.turn import Turn


@dataclass(frozen=True, slots=True)
class Held:
    """A seed as the runtime holds it."""

    seed_id: str
    site: str
    stage: int
    blueprint_id: str
    kernel_digest: str
    alpha: float
    parameter_count: int


@dataclass(frozen=True, slots=True)
class Note:
    """One difference and what was done about it; a stage of 0 means that this side had none."""

    seed_id: str
    difference: str
    resolution: str
    journal_stage: int
    runtime_stage: int


def reconcile(turn: Turn, inventory: Sequence[Held]) -> tuple[Note, ...]:
    """Bring journal and runtime together; return the differences in a fixed order."""
    held = {seed.seed_id: seed for seed in inventory if seed.stage != DORMANT}
    notes: list[Note | None] = []
    for seed_id in sorted({*held, *turn.ledger.seeds}):
        known, there = turn.ledger.seeds.get(seed_id), held.get(seed_id)
        if known is None and there is not None:
            notes.append(_unknown(turn, there))
        elif known is not None and there is None:
            notes.append(_not_there(turn, known))
        elif known is not None and there is not None:
            notes.append(_both(turn, known, there))
    return tuple(note for note in notes if note is not None)


def _adopt(turn: Turn, there: Held, why: str) -> None:
    turn.emit(
        f.SeedAdopted(
            seed_id=there.seed_id,
            site=there.site,
            blueprint_id=there.blueprint_id,
            kernel_digest=there.kernel_digest,
            stage=there.stage,
            alpha=there.alpha,
            parameter_count=there.parameter_count,
            step=turn.ledger.step,
            at=turn.now,
            why=why,
        )
    )


def _unknown(turn: Turn, there: Held) -> Note:
    """Remove what was never planted here, except what is already part of the host."""
    difference = f"The runtime holds it in {stage_name(there.stage)}; the journal does not know it."
    _adopt(turn, there, difference)
    if there.stage in ATTACHED:
        turn.cull(there.seed_id, "Nothing on record allowed this seed.")
        return Note(there.seed_id, difference, "It is culled.", 0, there.stage)
    if there.stage == FOSSILIZED:
        turn.close(there.seed_id, "It is part of its host.")
    return Note(there.seed_id, difference, "It is taken on record as it is.", 0, there.stage)


def _not_there(turn: Turn, known: Seed) -> Note | None:
    if known.closed and not _lost_fossil(turn, known):
        return None
    if known.stage == DORMANT:
        give_again(turn, known.seed_id)
        return None
    if known.stage == CULLED:
        turn.emit(_gone(turn, known, "The runtime no longer holds the culled seed."))
        turn.close(known.seed_id, "It was culled, and the runtime no longer holds it.")
        return Note(known.seed_id, "It was to be detached and is gone.", "Its record is closed.", CULLED, 0)
    if not known.attached and not known.kept:
        return None
    difference = f"The journal has it in {stage_name(known.stage)}; the runtime does not hold it."
    turn.emit(_gone(turn, known, difference))
    turn.close(known.seed_id, "The runtime went back to a state before this seed.")
    return Note(known.seed_id, difference, "It is taken as gone; its site is free.", known.stage, 0)


def _lost_fossil(turn: Turn, known: Seed) -> bool:
    """Tell whether a kept seed is lost: a runtime need not list it, but one that went back in time has not got it."""
    return known.kept and turn.ledger.step < known.stage_step


def _gone(turn: Turn, known: Seed, why: str) -> f.SeedAdopted:
    return f.SeedAdopted(
        seed_id=known.seed_id,
        site=known.site,
        blueprint_id=known.blueprint_id,
        kernel_digest=known.kernel_digest,
        stage=DORMANT,
        alpha=0.0,
        parameter_count=known.parameter_count,
        step=turn.ledger.step,
        at=turn.now,
        why=why,
    )


def _both(turn: Turn, known: Seed, there: Held) -> Note | None:
    if known.stage == there.stage:
        _resume(turn, known)
        return None
    if known.move is not None and known.move.to_stage == there.stage:
        catch_up(turn, known.seed_id)
        return None
    journal, runtime = stage_name(known.stage), stage_name(there.stage)
    difference = f"The journal has it in {journal}, the runtime in {runtime}."
    if known.stage == CULLED or (known.closed and not known.kept) or (known.stage > CULLED and not known.kept):
        return _remove_again(turn, known, there, difference)
    _adopt(turn, there, difference)
    if there.stage == FOSSILIZED:
        turn.close(there.seed_id, "It is part of its host.")
    return Note(known.seed_id, difference, f"It goes on from {runtime}.", known.stage, there.stage)


def _resume(turn: Turn, known: Seed) -> None:
    """Give an unanswered directive again; the runtime answers one that it has already applied from memory."""
    if known.pending is not None or known.move is not None:
        give_again(turn, known.seed_id)


def _remove_again(turn: Turn, known: Seed, there: Held, difference: str) -> Note:
    """Detach once more what a runtime that went back in time holds again."""
    if known.stage == CULLED:
        turn.issue(known.seed_id, DETACH, "It was culled before the runtime went back.")
    else:
        _adopt(turn, there, difference)
        turn.cull(known.seed_id, "It was culled before the runtime went back.")
    return Note(known.seed_id, difference, "It is detached again.", known.stage, there.stage)
