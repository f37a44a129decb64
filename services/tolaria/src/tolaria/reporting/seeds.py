"""Seeds as messages: the book and the host put together."""

from __future__ import annotations

from typing import Final

from esper_core import leyline
from tolaria.growth.book import SeedEntry
from tolaria.training.optimizer import HOST_GROUP, group_name
from tolaria.training.session import Session

_AFTER_CULL: Final = frozenset({leyline.SEED_STAGE_EMBARGOED, leyline.SEED_STAGE_RESETTING, leyline.SEED_STAGE_DORMANT})


def seed_states(session: Session) -> tuple[leyline.SeedState, ...]:
    """Return every seed of the run, settled ones included, in the order of germination."""
    alphas = {record.seed_id: record.alpha for record in session.host.seeds()}
    rates = {group_name(group): float(group["lr"]) for group in session.optimizer.param_groups}
    return tuple(_state(session, entry, alphas, rates) for entry in session.book)


def settled_states(session: Session) -> tuple[leyline.SeedState, ...]:
    """Return every seed as a person wants to see it: what was removed counts as CULLED, however far its reset is."""
    states = seed_states(session)
    for state in states:
        if state.stage in _AFTER_CULL:
            state.stage = leyline.SEED_STAGE_CULLED
    return states


def attached_states(session: Session) -> tuple[leyline.SeedState, ...]:
    """Return the seeds that the runtime holds, fossilised ones included, each in the stage that the runtime has."""
    records = {record.seed_id: record for record in session.host.seeds()}
    states = [state for state in seed_states(session) if state.seed_id in records]
    for state in states:
        state.stage = leyline.SeedStage.ValueType(records[state.seed_id].stage)
    return tuple(states)


def _state(session: Session, entry: SeedEntry, alphas: dict[str, float], rates: dict[str, float]) -> leyline.SeedState:
    contribution = entry.contribution
    return leyline.SeedState(
        seed_id=entry.seed_id,
        site=entry.site,
        stage=leyline.SeedStage.ValueType(entry.stage),
        blueprint_id=entry.blueprint_id,
        kernel_digest=entry.kernel_digest,
        alpha=alphas.get(entry.seed_id, 0.0),
        age_steps=max(0, session.counters.step - entry.germinated_step),
        age_epochs=max(0, session.epoch - entry.germinated_epoch),
        gradient_norm=entry.gradient_norm,
        learning_rate=rates.get(entry.seed_id, rates.get(HOST_GROUP)) if entry.seed_id in alphas else None,
        parameter_count=entry.parameter_count,
        contribution=contribution.mean if contribution else None,
        contribution_low=contribution.low if contribution else None,
        contribution_high=contribution.high if contribution else None,
        allowed_blend_modes=[leyline.BLEND_MODE_RESIDUAL, leyline.BLEND_MODE_CONVEX, leyline.BLEND_MODE_CHANNEL],
        host_layers=[session.host.site(entry.site).module_path],
        stage_steps=max(0, session.counters.step - entry.stage_step),
        germinate_command_id=entry.command_id,
    )
