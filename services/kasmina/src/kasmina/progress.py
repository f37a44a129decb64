"""When a seed moves on by itself: dwell and gates, looked at whenever evidence or a boundary comes.

Merit is judged late and safety early; nothing is judged twice at one step; a gate that fails culls.
"""

from __future__ import annotations

from esper_core import leyline
from kasmina.evidence import Evidence
from kasmina.gates import (
    Verdict,
    given_up,
    judge_gradient_health,
    judge_interface,
    judge_reset,
    judge_stability,
    judge_system_impact,
)
from kasmina.lifecycle import (
    BLENDING,
    DORMANT,
    EMBARGOED,
    FOSSILIZED,
    GERMINATED,
    PROBATIONARY,
    RESETTING,
    SHADOWING,
    TRAINING,
    next_forward,
)
from kasmina.moves import set_out
from kasmina.seeds import Seed
from kasmina.turn import Turn

_ALPHA_SLACK = 1e-3


def consider(turn: Turn, seed_id: str, evidence: Evidence, *, fresh: bool = True) -> None:
    """Look at a seed in the light of evidence.

    Parameters
    ----------
    turn : Turn
        The turn.
    seed_id : str
        A seed of the ledger.
    evidence : Evidence
        Its last evidence.
    fresh : bool
        False when the evidence was considered before and only time has passed since.
    """
    seed = turn.seed(seed_id)
    if not seed.attached:
        return
    if not evidence.finite:
        _fail(turn, seed_id, _safety_verdict(turn, seed, evidence))
        return
    if seed.move is not None or seed.pending is not None or evidence.stage != seed.stage:
        return
    _RULES[seed.stage](turn, seed, seed.steadied(evidence), fresh)


def let_time_pass(turn: Turn) -> None:
    """Move what only waits for time: fresh germinations, expired embargoes, and everything at the last fence."""
    for seed in tuple(turn.ledger.seeds.values()):
        if seed.stage == GERMINATED and seed.move is None and seed.pending is None:
            _germinated(turn, seed, seed.evidence, False)
        elif seed.stage in (EMBARGOED, RESETTING):
            _reset(turn, seed)
        elif turn.ledger.final and seed.evidence is not None:
            consider(turn, seed.seed_id, seed.evidence, fresh=False)


def merit(turn: Turn, seed: Seed) -> Verdict:
    """Judge a seed's merit on its probes so far."""
    return judge_system_impact(seed.probes, seed.improvement, turn.rules.limits, final=turn.ledger.final)


def dwelt(turn: Turn, seed: Seed) -> bool:
    """Tell whether a seed has been in its stage long enough, was hurried, or the run is at its last fence."""
    least = turn.rules.dwell.steps(seed.stage, turn.ledger.total_steps)
    return bool(seed.hurried_by) or turn.ledger.final or seed.dwell(turn.ledger.step) >= least


def _safety_verdict(turn: Turn, seed: Seed, evidence: Evidence) -> Verdict:
    early = seed.stage in (GERMINATED, TRAINING)
    judge = judge_gradient_health if early else judge_stability
    return judge(evidence, turn.rules.limits)


def _germinated(turn: Turn, seed: Seed, evidence: Evidence | None, fresh: bool) -> None:
    if dwelt(turn, seed):
        set_out(turn, seed.seed_id, TRAINING, "It is attached and begins to learn.", seed.hurried_by)


def _training(turn: Turn, seed: Seed, evidence: Evidence, fresh: bool) -> None:
    health = judge_gradient_health(evidence, turn.rules.limits)
    if health.failed:
        _fail(turn, seed.seed_id, health)
        return
    if not dwelt(turn, seed):
        return
    stability = judge_stability(evidence, turn.rules.limits)
    _pass_or_wait(turn, seed, (health, stability), "It learns safely and is blended in.")


def _blending(turn: Turn, seed: Seed, evidence: Evidence, fresh: bool) -> None:
    stability = judge_stability(evidence, turn.rules.limits)
    target = seed.blend.target_alpha if seed.blend else 1.0
    arrived = evidence.alpha >= target - _ALPHA_SLACK
    if stability.failed:
        _fail(turn, seed.seed_id, stability)
    elif arrived:
        _pass_or_wait(turn, seed, (stability,), f"Alpha has reached {evidence.alpha:.3f}.")
    elif _patience_over(turn, seed):
        sentence = f"Alpha stands at {evidence.alpha:.3f} instead of {target:.3f}."
        stalled = Verdict(stability.gate, "failed", "alpha_stalled", sentence, stability.thresholds)
        _fail(turn, seed.seed_id, stalled)


def _shadowing(turn: Turn, seed: Seed, evidence: Evidence, fresh: bool) -> None:
    stability = judge_stability(evidence, turn.rules.limits)
    if stability.failed:
        _fail(turn, seed.seed_id, stability)
    elif dwelt(turn, seed):
        verdicts = (_interface(turn, seed, evidence), merit(turn, seed))
        _pass_or_wait(turn, seed, verdicts, "It helps, and now has to go on helping.")


def _probationary(turn: Turn, seed: Seed, evidence: Evidence, fresh: bool) -> None:
    stability = judge_stability(evidence, turn.rules.limits)
    impact = merit(turn, seed)
    over = dwelt(turn, seed)
    if stability.failed:
        _fail(turn, seed.seed_id, stability)
    elif impact.failed and fresh:
        _fail(turn, seed.seed_id, impact)
    elif not impact.passed and fresh and _patience_over(turn, seed):
        _fail(turn, seed.seed_id, given_up(impact, seed.dwell(turn.ledger.step)))
    elif impact.passed and over and seed.settle_by:
        turn.judge(seed.seed_id, impact)
        set_out(turn, seed.seed_id, FOSSILIZED, "It helped through its probation.", seed.settle_by)
    elif impact.passed and over and impact.gate not in seed.gates_passed:
        turn.judge(seed.seed_id, impact)


def _interface(turn: Turn, seed: Seed, evidence: Evidence) -> Verdict:
    site = turn.ledger.site(seed.site)
    if site is None:
        gate = leyline.SEED_GATE_G3_INTERFACE
        return Verdict(gate, "failed", "site_missing", f"The host no longer has a site {seed.site}.")
    contract = seed.kernel.key.contract if seed.kernel else None
    return judge_interface(evidence, contract, site.contract, (site.module_path,))


def _pass_or_wait(turn: Turn, seed: Seed, verdicts: tuple[Verdict, ...], reason: str) -> None:
    """Move on when all gates pass; cull at the first that fails or was waited for in vain."""
    over = _patience_over(turn, seed)
    for verdict in verdicts:
        if verdict.failed:
            _fail(turn, seed.seed_id, verdict)
            return
        if not verdict.passed:
            if over:
                _fail(turn, seed.seed_id, given_up(verdict, seed.dwell(turn.ledger.step)))
            return
    for verdict in verdicts:
        turn.judge(seed.seed_id, verdict)
    set_out(turn, seed.seed_id, next_forward(seed.stage), reason, seed.hurried_by)


def _patience_over(turn: Turn, seed: Seed) -> bool:
    limit = turn.rules.dwell.patience_steps(seed.stage, turn.ledger.total_steps)
    if seed.stage == BLENDING and seed.blend is not None:
        limit = max(limit, 2 * seed.blend.end_steps)
    return seed.dwell(turn.ledger.step) > limit


def _fail(turn: Turn, seed_id: str, verdict: Verdict) -> None:
    turn.judge(seed_id, verdict)
    turn.cull(seed_id, verdict.explanation)


def _reset(turn: Turn, seed: Seed) -> None:
    """Let an embargo end, and open the site again once nothing is left behind."""
    if seed.stage == EMBARGOED:
        if seed.pending is not None or (seed.embargo and not seed.embargo.over(turn.now, turn.ledger.epoch)):
            return
        turn.move(seed.seed_id, RESETTING, "Its embargo is over.")
        turn.judge(seed.seed_id, judge_reset(bool(seed.removed_cleanly), seed.left_behind))
    elif seed.removed_cleanly and seed.pending is None and not seed.gates_passed:
        turn.judge(seed.seed_id, judge_reset(True))
    if turn.seed(seed.seed_id).gates_passed:
        turn.move(seed.seed_id, DORMANT, "Nothing is left of the seed; its site is free.")
        turn.close(seed.seed_id, "It was culled and reset.")


_RULES = {
    GERMINATED: _germinated,
    TRAINING: _training,
    BLENDING: _blending,
    SHADOWING: _shadowing,
    PROBATIONARY: _probationary,
}
