"""What each command does to a run. The validator has already said that it makes sense."""

from __future__ import annotations

from dataclasses import dataclass

from esper_core import leyline
from kasmina import facts as f
from kasmina.blend import completed, default_blend
from kasmina.catalogue import CatalogueItem
from kasmina.commands import Command, SeedOperation
from kasmina.directives import Details
from kasmina.gates import judge_sanity
from kasmina.kernels import Kernel, KernelKey, KernelProblem
from kasmina.lifecycle import BLENDING, DORMANT, GERMINATED, PROBATIONARY, SHADOWING
from kasmina.moves import ATTACH, SET_BLEND, set_out
from kasmina.progress import consider, merit
from kasmina.turn import Turn


@dataclass(frozen=True, slots=True)
class Decision:
    """Whether a command was carried out, why, and on which seed."""

    accepted: bool
    explanation: str
    seed_id: str = ""


@dataclass(frozen=True, slots=True)
class Supply:
    """What a germination needs from outside: blueprint, kernel key, and the kernel or why there is none."""

    item: CatalogueItem | None = None
    key: KernelKey | None = None
    kernel: Kernel | None = None
    problem: KernelProblem | None = None


def carry_out(turn: Turn, command: Command, supply: Supply) -> Decision:
    """Carry out a valid command."""
    payload = command.payload
    if not isinstance(payload, SeedOperation):
        return Decision(True, "The command is verified; the trainer carries it out.")
    if payload.operation == leyline.SEED_OPERATION_GERMINATE:
        return _germinate(turn, command, payload, supply)
    return {
        leyline.SEED_OPERATION_ADVANCE: _advance,
        leyline.SEED_OPERATION_FOSSILIZE: _fossilize,
        leyline.SEED_OPERATION_CULL: _cull,
        leyline.SEED_OPERATION_CANCEL: _cancel,
        leyline.SEED_OPERATION_SET_BLEND: _set_blend,
    }[leyline.SeedOperation.ValueType(payload.operation)](turn, command, payload)


def _germinate(turn: Turn, command: Command, payload: SeedOperation, supply: Supply) -> Decision:
    """Judge G0, plant the record and let the runtime prepare the kernel."""
    opened = turn.ledger.opened
    if supply.key is None or opened is None:
        return Decision(False, "No kernel can be named for this command: the blueprint or site is not known.")
    seed_id = turn.ledger.next_seed_id(command.site)
    verdict = judge_sanity(
        supply.item, opened.blueprint_ids, supply.key, supply.kernel, allow_restricted=opened.allow_restricted
    )
    if not verdict.passed or supply.kernel is None:
        turn.judge(seed_id, verdict)
        return Decision(False, _refusal(verdict.explanation, supply.problem))
    ramp = turn.rules.dwell.steps(BLENDING, turn.ledger.total_steps)
    turn.emit(
        f.SeedPlanted(
            seed_id=seed_id,
            site=command.site,
            blueprint_id=payload.blueprint_id,
            kernel=supply.kernel,
            blend=completed(payload.blend, ramp) if payload.blend else default_blend(ramp),
            isolation=payload.isolation or opened.isolation or leyline.ISOLATION_MODE_FREEZE,
            command_id=command.command_id,
            step=turn.ledger.step,
            at=turn.now,
        )
    )
    turn.judge(seed_id, verdict)
    set_out(turn, seed_id, GERMINATED, f"Command {command.command_id} germinates it.", command.command_id)
    return Decision(True, f"{seed_id} is being prepared.", seed_id)


def _refusal(explanation: str, problem: KernelProblem | None) -> str:
    return explanation if problem is None else f"{explanation} {problem.code}: {problem.message}"


def _advance(turn: Turn, command: Command, payload: SeedOperation) -> Decision:
    seed = turn.seed(command.seed_id)
    turn.emit(f.WishNoted(seed.seed_id, "advance", command.command_id))
    if seed.evidence is not None:
        consider(turn, seed.seed_id, seed.evidence, fresh=False)
    return Decision(True, "It moves on as soon as its gates allow.", seed.seed_id)


def _fossilize(turn: Turn, command: Command, payload: SeedOperation) -> Decision:
    """Keep a seed if its merit holds: at once when its probation is over, else when it ends and merit still holds."""
    seed = turn.seed(command.seed_id)
    if seed.stage == SHADOWING and not turn.ledger.final:
        return Decision(False, "The seed has not begun its probation; G4 is not decided yet.", seed.seed_id)
    verdict = merit(turn, seed)
    if verdict.finding != "passed":
        return Decision(False, f"G4 does not hold: {verdict.explanation}", seed.seed_id)
    turn.emit(f.WishNoted(seed.seed_id, "fossilize", command.command_id))
    if seed.evidence is not None:
        consider(turn, seed.seed_id, seed.evidence, fresh=False)
    left = turn.rules.dwell.steps(PROBATIONARY, turn.ledger.total_steps) - seed.dwell(turn.ledger.step)
    after = turn.seed(seed.seed_id)
    wait = "" if after.move else f" It is kept when its probation ends in {max(left, 0)} steps, if G4 still holds."
    return Decision(True, f"G4 holds: {verdict.explanation}{wait}", seed.seed_id)


def _cull(turn: Turn, command: Command, payload: SeedOperation) -> Decision:
    turn.cull(command.seed_id, f"Command {command.command_id} culls it.", command.command_id)
    return Decision(True, "The seed is culled and its host restored at the next fence.", command.seed_id)


def _cancel(turn: Turn, command: Command, payload: SeedOperation) -> Decision:
    seed = turn.seed(command.seed_id)
    if seed.stage != DORMANT or (seed.pending is not None and seed.pending.kind == ATTACH):
        return Decision(False, "The seed is being attached; cull it once it has germinated.", seed.seed_id)
    turn.close(seed.seed_id, f"Command {command.command_id} withdrew it before it was attached.")
    return Decision(True, "The germination is withdrawn.", seed.seed_id)


def _set_blend(turn: Turn, command: Command, payload: SeedOperation) -> Decision:
    seed = turn.seed(command.seed_id)
    if payload.blend is None:
        return Decision(False, "SET_BLEND needs a blend configuration.", seed.seed_id)
    ramp = turn.rules.dwell.steps(BLENDING, turn.ledger.total_steps)
    turn.emit(f.BlendChosen(seed.seed_id, completed(payload.blend, ramp), command.command_id))
    if seed.stage != BLENDING or seed.pending is not None:
        return Decision(True, "The blend applies when the seed is blended.", seed.seed_id)
    blend = turn.seed(seed.seed_id).blend
    turn.issue(
        seed.seed_id, SET_BLEND, "A command changed it.", command_id=command.command_id, details=Details(blend=blend)
    )
    return Decision(True, "The blend changes at the next fence.", seed.seed_id)
